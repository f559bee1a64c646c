"""The command line: `branchline serve`, `check`, `gc`, `fsck`, `purge`, `backup`, and more.

Also `python -m proxy`.

Exit status: 0 success, 1 it can't run or something is wrong, 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from proxy import __version__
from proxy.config.flags import FLAGS, STORE_FLAGS

# The commands import what they need themselves: `branchline version` takes no time to load a server.
if TYPE_CHECKING:
    from proxy.config.settings import Config

Result = TypeVar("Result")


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

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, flags: Sequence[str]) -> Any:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        command.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
        for key in flags:
            flag, value, meaning = FLAGS[key]
            command.add_argument(flag, dest=key, metavar=value, help=meaning)
        return command

    add("serve", _serve, "run the proxy", list(FLAGS))
    add("check", _check, "say whether the configuration, the store and the upstream work", list(FLAGS))
    gc = add("gc", _collect, "free what no branch and no response reaches any more", STORE_FLAGS)
    gc.add_argument("--every", metavar="SECONDS", type=_seconds, help="go on, with this pause between two times")
    fsck = add("fsck", _audit, "check the store's invariants and change nothing", STORE_FLAGS)
    fsck.add_argument("--owner", default="", help="check only what belongs to this owner")
    purge = add("purge", _purge, "delete everything that belongs to an owner, for good", STORE_FLAGS)
    purge.add_argument("--owner", required=True, help="whose conversations, responses and idempotency keys go")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    backup = add("backup", _back_up, "write all that the store holds to one file, beside running servers", STORE_FLAGS)
    backup.add_argument("file", metavar="FILE", type=Path, help="file to write, replaced once the new one is whole")
    restore = add("restore", _restore, "write a backup into an empty store", STORE_FLAGS)
    restore.add_argument("file", metavar="FILE", type=Path, help="what `backup` wrote")
    restore.add_argument("--replace", action="store_true", help="delete what is in the store before")
    restore.add_argument("--check", action="store_true", help="only read the file and say whether it is whole")
    export = add("export", _export, "write conversations to files, one each", STORE_FLAGS)
    export.add_argument("directory", metavar="DIR", type=Path, help="folder to write to; is made if missing")
    export.add_argument("--owner", help="export only what belongs to this owner")
    imports = add("import", _import, "restore exported conversations", STORE_FLAGS)
    imports.add_argument("paths", metavar="DIR|FILE", type=Path, nargs="+", help="folders and files to read")
    imports.add_argument("--owner", help="give everything to this owner")
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _serve(options: argparse.Namespace) -> int:
    from proxy.cli.messages import CHANNEL_VARIABLE

    if CHANNEL_VARIABLE in os.environ:
        from proxy.cli.worker import work

        return work()
    config = _load(options)
    from proxy.cli.process import StartError
    from proxy.cli.processors import worker_count

    try:
        if worker_count(config.server.workers) == 1:
            from proxy.cli.serve import serve

            serve(config)
        else:
            from proxy.cli.supervisor import supervise

            supervise(config, lambda: _read(options))
    except StartError as exc:
        return _fail(str(exc), exc.status)
    return 0


def _check(options: argparse.Namespace) -> int:
    config = _load(options)
    import asyncio
    import logging

    from proxy.cli.check import diagnose

    # what goes wrong is in the findings
    logging.disable()
    findings = asyncio.run(diagnose(config))
    for finding in findings:
        print(f"{'ok  ' if finding.works else 'FAIL'}  {finding.subject:8}  {finding.text}")
        for risk in finding.risks:
            print(f"warn  {finding.subject:8}  {risk}")
    return 0 if all(finding.works for finding in findings) else 1


def _collect(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.cli.maintenance import collect_garbage

    _run(collect_garbage(config, options.every))
    return 0


def _audit(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.cli.maintenance import check

    return 1 if _run(check(config, options.owner)) else 0


def _purge(options: argparse.Namespace) -> int:
    config = _load(options)
    if not options.yes and not _confirms(f"Delete everything that belongs to {options.owner}, for good? [y/N] "):
        return _fail("nothing was deleted; say y, or give --yes", 1)
    from proxy.cli.maintenance import purge

    _run(purge(config, options.owner))
    return 0


def _confirms(question: str) -> bool:
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _back_up(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.cli.store_backup import run_backup

    return _run(run_backup(config, options))


def _restore(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.cli.store_backup import run_restore

    return _run(run_restore(config, options))


def _export(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.cli.backup import run_export

    return _run(run_export(config, options))


def _import(options: argparse.Namespace) -> int:
    config = _load(options)
    from proxy.cli.backup import run_import

    return _run(run_import(config, options))


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, or until Ctrl-C, and exit with one line if the store can't be used."""
    import asyncio

    from proxy.cli.maintenance import UpkeepError
    from proxy.stores import UnusableStore
    from storage.embedded import EmbeddedUnavailable

    try:
        return asyncio.run(work)
    except (UpkeepError, UnusableStore, EmbeddedUnavailable) as exc:
        sys.exit(_fail(str(exc), 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _version(_: argparse.Namespace) -> int:
    print(f"branchline {__version__}")
    return 0


def _load(options: argparse.Namespace) -> Config:
    from proxy.config.loading import ConfigError

    try:
        return _read(options)
    except ConfigError as exc:
        sys.exit(_fail(str(exc), 2))


def _read(options: argparse.Namespace) -> Config:
    """Return the settings; ConfigError if they can't be used."""
    from proxy.config.loading import load_config

    given = {key: value for key, value in vars(options).items() if key in FLAGS and value is not None}
    return load_config(options.config, os.environ, given)


def _fail(message: str, status: int) -> int:
    print(f"branchline: {message}", file=sys.stderr)
    return status
