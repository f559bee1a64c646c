"""The command line: `branchline serve`, `branchline check`, `branchline version`; also `python -m proxy`.

Exit status: 0 success, 1 the server can't run, 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.flags import FLAGS

# The commands import what they need themselves: `branchline version` takes no time to load a server.
if TYPE_CHECKING:
    from proxy.config import Config


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` (without the program's name) ask for, and exit."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    sys.exit(run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="branchline", description="A reverse proxy that makes any LLM Responses API stateful."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in (
        ("serve", _serve, "run the proxy"),
        ("check", _check, "say whether the configuration, the store and the upstream work"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        command.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
        for key, (flag, value, meaning) in FLAGS.items():
            command.add_argument(flag, dest=key, metavar=value, help=meaning)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _serve(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.server import StartError, serve

    try:
        serve(config)
    except StartError as exc:
        return _fail(str(exc), exc.status)
    return 0


def _check(options: argparse.Namespace) -> int:
    config = _load(options)
    import asyncio
    import logging

    from proxy.diagnosis import diagnose

    # what goes wrong is in the findings
    logging.disable()
    findings = asyncio.run(diagnose(config))
    for finding in findings:
        print(f"{'ok  ' if finding.works else 'FAIL'}  {finding.subject:8}  {finding.text}")
    return 0 if all(finding.works for finding in findings) else 1


def _version(_: argparse.Namespace) -> int:
    print(f"branchline {__version__}")
    return 0


def _load(options: argparse.Namespace) -> Config:
    from proxy.sources import ConfigError, load_config

    given = {key: value for key, value in vars(options).items() if key in FLAGS and value is not None}
    try:
        return load_config(options.config, os.environ, given)
    except ConfigError as exc:
        sys.exit(_fail(str(exc), 2))


def _fail(message: str, status: int) -> int:
    print(f"branchline: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
