"""Codex CLI: `exec`, `resume` with a tool, a compaction, `resume`; and what must be recorded of that."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CONFIG = """
model = "echo"
model_provider = "branchline"
approval_policy = "never"
sandbox_mode = "danger-full-access"

[model_providers.branchline]
name = "branchline"
base_url = "{url}"
wire_api = "responses"
env_key = "BRANCHLINE_KEY"
"""
#: Tokens from which on a session is compacted: the echo model counts words, and Codex brings some thousands.
_COMPACT = ("-c", "model_auto_compact_token_limit=3000")
_ASKED = ("question one", "call exec_command pwd", "question three", "question four")
_SECONDS = 60


def hold_session(command: Path, url: str, home: Path) -> str:
    """Hold a session with a folder of its own; return what went wrong, '' for nothing."""
    (home / "config.toml").write_text(_CONFIG.format(url=url))
    resume = ("resume", "--last")
    options_of_each = ((), resume, (*resume, *_COMPACT), resume)
    for options, text in zip(options_of_each, _ASKED, strict=True):
        told = [command, "exec", *options, "--skip-git-repo-check", text]
        variables = {"CODEX_HOME": str(home), "BRANCHLINE_KEY": "sk-alice", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        held = subprocess.run(
            told,
            cwd=home,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if held.returncode:
            return held.stderr.strip()[-2000:]
    return ""


def judge_session(lines: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Return what is wrong with the lines of a session, the oldest first: its own, the compaction, the rest of it."""
    asked = [[_text(item) for item in line if item.get("role") == "user"] for line in lines]
    own = [[text for text in line if text in _ASKED] for line in asked]
    if own != [list(_ASKED[:2]), list(_ASKED[:2]), list(_ASKED)]:
        return f"lines {own}"
    return "" if len(asked[1]) == len(asked[0]) + 1 else "the compaction is no branch beside"


def _text(item: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in item["content"])
