"""The command line: `branchline serve`, `check`, `doctor`, `conversations`, `tail`, `backup`, and more.

Also `python -m proxy`. What the commands take is in `proxy/cli/parser.py`.

Exit status: 0 success, 1 it can't run or something is wrong, 2 the command line or the configuration is wrong, 130 it
was ended with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from proxy import __version__
from proxy.cli.parser import create_parser
from proxy.config.flags import FLAGS

# The commands import what they need themselves: `branchline version` takes no time to load a server.
if TYPE_CHECKING:
    from argparse import Namespace

    from proxy.config.settings import Config

Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` (without the program's name) ask for, and exit."""
    options = create_parser().parse_args(arguments)
    sys.exit(_COMMANDS[options.command](options))


def _serve(options: Namespace) -> int:
    from proxy.cli.messages import CHANNEL_VARIABLE

    if CHANNEL_VARIABLE in os.environ:
        from proxy.cli.worker import work

        return work()
    if options.reload:
        from proxy.cli.development import serve_and_reload

        return serve_and_reload(options.config, sys.argv[1:])
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


def _check(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.check import diagnose
    from proxy.cli.commands.findings import report_findings

    return report_findings(_run_quietly(diagnose(config)), as_json=options.json)


def _doctor(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.doctor import examine
    from proxy.cli.commands.findings import report_findings

    return report_findings(_run_quietly(examine(config)), as_json=options.json)


def _config(options: Namespace) -> int:
    from proxy.cli.commands.settings_report import report_settings
    from proxy.config.loading import ConfigError, read_settings

    try:
        report_settings(read_settings(*_sources(options)), only_changed=options.changed, as_json=options.json)
    except ConfigError as exc:
        return _fail(str(exc), 2)
    return 0


def _owner(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.owner import run_owner

    return _run(run_owner(config, options))


def _demo(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.demonstration import run_demo

    return _run(run_demo(config, options))


def _list(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.conversations import run_list

    return _run(run_list(config, options))


def _show(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.conversations import run_show

    return _run(run_show(config, options))


def _tree(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.conversations import run_tree

    return _run(run_tree(config, options))


def _delete(options: Namespace) -> int:
    config = _load(options)
    what = options.ids[0] if len(options.ids) == 1 else f"{len(options.ids)} conversations"
    if not options.yes and not _confirms(f"Delete {what}, with all branches and items, for good? [y/N] "):
        return _fail("nothing was deleted; say y, or give --yes", 1)
    from proxy.cli.commands.conversations import run_delete

    return _run(run_delete(config, options))


def _tail(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.tail import run_tail

    return _run(run_tail(config, options))


def _collect(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.maintenance import collect_garbage

    _run(collect_garbage(config, options.every, as_json=options.json))
    return 0


def _audit(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.maintenance import check

    return 1 if _run(check(config, options.owner, as_json=options.json)) else 0


def _purge(options: Namespace) -> int:
    config = _load(options)
    if not options.yes and not _confirms(f"Delete everything that belongs to {options.owner}, for good? [y/N] "):
        return _fail("nothing was deleted; say y, or give --yes", 1)
    from proxy.cli.commands.maintenance import purge

    _run(purge(config, options.owner, as_json=options.json))
    return 0


def _confirms(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in {"y", "yes"}
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return False


def _back_up(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.store_backup import run_backup

    return _run(run_backup(config, options))


def _restore(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.store_backup import run_restore

    return _run(run_restore(config, options))


def _export(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.backup import run_export

    return _run(run_export(config, options))


def _import(options: Namespace) -> int:
    config = _load(options)
    from proxy.cli.commands.backup import run_import

    return _run(run_import(config, options))


def _complete(options: Namespace) -> int:
    import shtab

    print(shtab.complete(create_parser(), shell=options.shell))
    return 0


def _version(options: Namespace) -> int:
    print(f'{{"version":"{__version__}"}}' if options.json else f"branchline {__version__}")
    return 0


_COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "serve": _serve,
    "check": _check,
    "doctor": _doctor,
    "config": _config,
    "owner": _owner,
    "demo": _demo,
    "conversations list": _list,
    "conversations show": _show,
    "conversations tree": _tree,
    "conversations delete": _delete,
    "tail": _tail,
    "gc": _collect,
    "fsck": _audit,
    "purge": _purge,
    "backup": _back_up,
    "restore": _restore,
    "export": _export,
    "import": _import,
    "completion": _complete,
    "version": _version,
}


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, or until Ctrl-C, and exit with one line if the store can't be used."""
    import asyncio

    from proxy.cli.commands.maintenance import UpkeepError
    from proxy.stores import UnusableStore
    from storage.embedded import EmbeddedUnavailable

    try:
        return asyncio.run(work)
    except (UpkeepError, UnusableStore, EmbeddedUnavailable) as exc:
        sys.exit(_fail(str(exc), 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # whoever read has enough (`| head`); what Python would still write at its exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run_quietly(work: Coroutine[Any, Any, Result]) -> Result:
    """Run without a log: what goes wrong is in the findings."""
    import logging

    logging.disable()
    return _run(work)


def _load(options: Namespace) -> Config:
    from proxy.config.loading import ConfigError

    try:
        return _read(options)
    except ConfigError as exc:
        sys.exit(_fail(str(exc), 2))


def _read(options: Namespace) -> Config:
    """Return the settings; ConfigError if they can't be used."""
    from proxy.config.loading import load_config

    return load_config(*_sources(options))


def _sources(options: Namespace) -> tuple[Any, Mapping[str, str], Mapping[str, str]]:
    """Return where settings come from: the file, the environment, the flags that were given."""
    return (
        options.config,
        os.environ,
        {key: value for key, value in vars(options).items() if key in FLAGS and value is not None},
    )


def _fail(message: str, status: int) -> int:
    print(f"branchline: {message}", file=sys.stderr)
    return status
