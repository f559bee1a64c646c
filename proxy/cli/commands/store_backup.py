"""`branchline backup` and `branchline restore`: everything that a store holds, in one file and back.

A backup is read beside running servers; a restore needs the store for itself. Either is done to its end or counts for
nothing: a file has its name once it was read back and found whole, and a store with half a backup is refused.
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NoReturn

from tqdm import tqdm

from proxy.cli.commands.check import store_problem
from proxy.cli.commands.maintenance import UpkeepError, nothing_found
from proxy.cli.commands.terminal import Terminal, telling_when_interrupted
from proxy.sealing import key_fingerprint, key_place
from proxy.stores import WRITER, open_store
from storage import (
    BackupEnd,
    BackupHead,
    BackupReader,
    BackupWriter,
    DamagedBackup,
    ServerReplaced,
    StoreNotEmpty,
    Unavailable,
    UnsupportedLayout,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.config.settings import Config
    from storage import Store


async def run_backup(config: Config, options: Namespace) -> int:
    """Write everything to `options.file`, which is replaced if it is there; return the exit status.

    Raises UpkeepError when the store or the file can't be used or there is nothing to back up, EmbeddedUnavailable,
    UnusableStore.
    """
    start, path = time.monotonic(), options.file
    async with open_store(config, existing=True) as store:
        try:
            with telling_when_interrupted(lambda: f"there is no new {path}"), _replacing(path) as file:
                end = await _copy(store, file, key_fingerprint(config))
                if not end.keys:
                    raise nothing_found(config, store, None)
                _read_back(file, end)
                size = file.tell()
        except ServerReplaced as exc:
            raise UpkeepError(
                f"{store.description} was restarted or replaced meanwhile; there is no new {path}"
            ) from exc
        except Unavailable as exc:
            raise UpkeepError(f"{store.description} {store_problem(exc)}; there is no new {path}") from exc
        except OSError as exc:
            raise UpkeepError(f"{path} can't be written: {exc.strerror}") from exc
    terminal = Terminal(as_json=options.json)
    terminal.report(
        f"backed up {_summarize(end)} to {path}, {size:,} bytes, {time.monotonic() - start:.1f} s",
        {"file": str(path), "bytes": size, **_counts(end)},
    )
    terminal.say(
        f"what is sealed can be read only with the sealing key, which is not in it: keep {key_place(config)} too"
    )
    return 0


async def run_restore(config: Config, options: Namespace) -> int:
    """Write the backup `options.file` into an empty store, or with `options.replace` over what is there.

    With `options.check` it is only read. Returns the exit status. Raises UpkeepError when the file is not whole, the
    store is not empty or either can't be used, EmbeddedUnavailable, UnusableStore.
    """
    start, path = time.monotonic(), options.file
    try:
        with path.open("rb") as file:
            # all of it, before anything is touched
            reader = BackupReader(file)
            head, end = reader.head, reader.verify()
            file.seek(0)
            terminal = Terminal(as_json=options.json)
            terminal.report(
                f"{path}: {_summarize(end)} of {head.source}, {_moment(head)}, by {head.writer}, layout {head.layout}",
                {"file": str(path), "writer": head.writer, "layout": head.layout, "restored": False, **_counts(end)},
            )
            if not options.check:
                with telling_when_interrupted(lambda: "the store may hold half a backup now: restore it again"):
                    await _restore_file(config, file, end, replace=options.replace)
                terminal.report(
                    f"restored {_summarize(end)}, {time.monotonic() - start:.1f} s",
                    {"file": str(path), "restored": True, **_counts(end)},
                )
                _warn_of_key(config, head)
    except DamagedBackup as exc:
        raise UpkeepError(f"{path} can't be restored: {exc}; nothing was changed") from exc
    except OSError as exc:
        raise UpkeepError(f"{path} can't be read: {exc.strerror}") from exc
    return 0


async def _copy(store: Store, file: IO[bytes], fingerprint: str) -> BackupEnd:
    head = BackupHead(store.layout.newest, WRITER, int(time.time()), store.description, fingerprint)
    writer = BackupWriter(file, head)
    with _progress("backup", " partitions") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        async for part in store.copier.copy(show):
            writer.write(part)
    return writer.finish()


def _read_back(file: IO[bytes], end: BackupEnd) -> None:
    """Read what the disk has. Raises UpkeepError if that is not what was written."""
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    try:
        found = BackupReader(file).verify()
    except DamagedBackup as exc:
        raise UpkeepError(f"what was written can't be read back: {exc}") from exc
    if not hmac.compare_digest(found.sha256, end.sha256):
        raise UpkeepError("what was written reads back as something else")
    file.seek(0, os.SEEK_END)


async def _restore_file(config: Config, file: IO[bytes], end: BackupEnd, *, replace: bool) -> None:
    async with open_store(config, alone=True, whatever=True) as store:
        reader = BackupReader(file)
        if reader.head.layout > store.layout.newest:
            raise UpkeepError(
                f"the backup has layout {reader.head.layout}, which {reader.head.writer} wrote; {WRITER} knows layouts"
                f" up to {store.layout.newest}; nothing was changed"
            )
        try:
            await store.restorer.prepare(reader.head, replace=replace)
            with _progress("restore", " keys", end.keys) as bar:
                await store.restorer.restore(reader.head, reader.parts(), lambda done: _show(bar, done))
            await store.layout.open(WRITER)
        except StoreNotEmpty as exc:
            raise UpkeepError(
                f"{store.description} is not empty (it has {exc.subject}): nothing was changed; --replace deletes what"
                " is there"
            ) from exc
        except UnsupportedLayout as exc:
            raise UpkeepError(f"{store.description} {exc.subject}") from exc
        except Unavailable as exc:
            raise UpkeepError(
                f"{store.description} {store_problem(exc)}; it holds half a backup now: restore it again"
            ) from exc


def _show(bar: tqdm[NoReturn], done: int) -> None:
    bar.update(min(done, bar.total or done) - bar.n)


def _warn_of_key(config: Config, head: BackupHead) -> None:
    ours = key_fingerprint(config)
    if head.sealing_key and ours != head.sealing_key:
        has = "is another one" if ours else "is not there"
        print(
            f"branchline: the sealing key ({key_place(config)}) {has}: compactions and background responses that wait"
            " can't be read without the one of the backup's server, and what apps resend is not known again",
            file=sys.stderr,
        )


def _counts(end: BackupEnd) -> dict[str, int]:
    return {"conversations": end.conversations, "responses": end.responses, "keys": end.keys}


def _summarize(end: BackupEnd) -> str:
    counts = ((end.conversations, "conversation"), (end.responses, "response"), (end.keys, "key"))
    return ", ".join(f"{number:,} {noun}{'' if number == 1 else 's'}" for number, noun in counts)


def _moment(head: BackupHead) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(head.started_at))


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file, for this user only, that takes the place of `path` at the end, and nothing if that is an error."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(unfinished, "w+b", opener=_open_private) as file:
            yield file
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # the name is on the disk, too
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


def _progress(name: str, unit: str, total: int | None = None) -> tqdm[NoReturn]:
    # disable=None: only on a terminal
    return tqdm(desc=name, total=total, unit=unit, disable=None, leave=False)
