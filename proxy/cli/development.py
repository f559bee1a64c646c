"""`branchline serve --reload`, for work on Branchline itself: the server starts again whenever its code changes."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import proxy
import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchfiles import Change

#: The endings of files that a server is made of.
_CODE = (".py", ".lua", ".html", ".css", ".js")


def serve_and_reload(config: Path | None, arguments: Sequence[str]) -> int:
    """Run `branchline` with these arguments until Ctrl-C, anew after each change of the code or of its settings file.

    Running turns get the time to finish that they always have. Returns the exit status: 2 where watchfiles, which comes
    with the development tools, is not installed.
    """
    try:
        from watchfiles import run_process
    except ModuleNotFoundError:
        print("branchline: serve --reload needs watchfiles: pip install watchfiles", file=sys.stderr)
        return 2
    code = [Path(package.__file__ or "").parent for package in (proxy, storage)]
    settings = config.resolve() if config is not None else None

    def matters(_: Change, path: str) -> bool:
        return path.endswith(_CODE) or (settings is not None and Path(path).resolve() == settings)

    def say(changes: set[tuple[Change, str]]) -> None:
        names = sorted(os.path.relpath(path) for _, path in changes)
        print(f"branchline: changed: {', '.join(names[:3])}; starting again", file=sys.stderr, flush=True)

    again = [sys.executable, "-m", "proxy", *(one for one in arguments if one != "--reload")]
    run_process(
        *code,
        *([settings.parent] if settings is not None else []),
        target=shlex.join(again),
        target_type="command",
        watch_filter=matters,
        callback=say,
        sigint_timeout=40,
    )
    return 0
