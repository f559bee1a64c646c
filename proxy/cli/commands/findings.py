"""What `branchline check` and `doctor` print: a line a finding, what it may lead to, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.text import Text

from proxy.cli.commands.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one part.

    subject: its name. works: whether a server could run with it. risks: what may go wrong with it one day.
    advice: what to do about what does not work, or about the risks.
    """

    subject: str
    works: bool
    text: str
    risks: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def report_findings(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print findings; return the exit status: 1 if a server would not run with one of them."""
    terminal, works = Terminal(as_json=as_json), all(finding.works for finding in findings)
    if as_json:
        terminal.record({"ok": works, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            for line in _lines(finding):
                terminal.draw(line)
    return 0 if works else 1


def _lines(finding: Finding) -> list[Text]:
    mark = ("ok  ", "green") if finding.works else ("FAIL", "bold red")
    lines = [Text.assemble(mark, f"  {finding.subject:8}  {finding.text}")]
    lines += [Text.assemble(("warn", "yellow"), f"  {finding.subject:8}  {risk}") for risk in finding.risks]
    lines += [Text.assemble(("  do", "cyan"), f"  {'':8}  {advice}") for advice in finding.advice]
    return lines
