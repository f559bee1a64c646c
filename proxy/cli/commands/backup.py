"""`branchline export` and `branchline import`: whole conversations into files and back, one file each.

Both work on the store directly, and beside running servers; both can be broken off at any time and repeated.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, NoReturn

from tqdm import tqdm

from proxy.backup.format import ConversationLine, EndLine, parse_line, write_lines
from proxy.backup.verifier import Backup, InvalidBackup
from proxy.cli.commands.check import store_problem
from proxy.cli.commands.maintenance import UpkeepError, nothing_found
from proxy.cli.commands.terminal import Terminal, telling_when_interrupted
from proxy.stores import open_store
from storage import Conflict, Conversation, ConversationExists, ConversationNotFound, Store, Unavailable

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from proxy.config.settings import Config

#: What a conversation's file is called after its id.
SUFFIX = ".jsonl"
#: What it is called until it is complete.
UNFINISHED = ".part"
#: Partitions that are looked at in one round trip.
IDENTIFIED_AT_ONCE = 100
#: Bytes at the end of a file that have its last line in them.
TAIL_BYTES = 512


@dataclass
class Tally:
    """What became of the conversations. gone: deleted while they were exported."""

    done: int = 0
    unchanged: int = 0
    gone: int = 0
    failed: int = 0

    def fail(self, subject: object, reason: object) -> None:
        """Count a failure and say what it was."""
        self.failed += 1
        tqdm.write(f"branchline: {subject}: {reason}", file=sys.stderr)

    def summarize(self, verb: str, seconds: float) -> str:
        """Return one line about everything."""
        noun = "conversation" if self.done == 1 else "conversations"
        parts = [f"{verb} {self.done:,} {noun}", f"{self.unchanged:,} unchanged"]
        if self.gone:
            parts.append(f"{self.gone:,} deleted meanwhile")
        return ", ".join([*parts, f"{self.failed:,} failed, {seconds:.1f} s"])


async def run_export(config: Config, options: Namespace) -> int:
    """Write every conversation (of `options.owner`) to `options.directory`; return the exit status.

    A file that is there, complete and as new as its conversation, stays. Raises UpkeepError when the store or the
    folder can't be used or there is nothing to export, EmbeddedUnavailable.
    """
    start, tally = time.monotonic(), Tally()
    _require_folder(options.directory)
    async with open_store(config, existing=True) as store:
        try:
            with telling_when_interrupted(lambda: f"{_so_far(tally, 'exported')}; the same command goes on from here"):
                await _export_all(store, options.directory, options.owner, tally)
        except Unavailable as exc:
            raise UpkeepError(f"{store.description} {store_problem(exc)}") from exc
        except OSError as exc:
            raise UpkeepError(f"{options.directory} can't be written: {exc.strerror}") from exc
        if tally == Tally():
            raise nothing_found(config, store, options.owner)
    _report(tally, "exported", time.monotonic() - start, options)
    return 1 if tally.failed else 0


async def run_import(config: Config, options: Namespace) -> int:
    """Restore the files, and those in the folders, of `options.paths`; return the exit status.

    They belong to `options.owner`, else to whom each names in its first line. Conversations that are there stay as
    they are. Raises UpkeepError when the store can't be used, EmbeddedUnavailable.
    """
    start, tally = time.monotonic(), Tally()
    paths = [path for given in options.paths for path in _files(given, tally)]
    async with open_store(config) as store:
        try:
            with (
                telling_when_interrupted(lambda: f"{_so_far(tally, 'imported')}; the same command goes on from here"),
                _progress("import", len(paths)) as bar,
            ):
                for path in paths:
                    await _import_one(store, path, options.owner, tally)
                    bar.update()
        except Unavailable as exc:
            raise UpkeepError(f"{store.description} {store_problem(exc)}") from exc
    _report(tally, "imported", time.monotonic() - start, options)
    return 1 if tally.failed else 0


def _so_far(tally: Tally, verb: str) -> str:
    noun = "conversation" if tally.done == 1 else "conversations"
    return f"{verb} {tally.done:,} {noun} so far"


def _report(tally: Tally, verb: str, seconds: float, options: Namespace) -> None:
    Terminal(as_json=options.json).report(tally.summarize(verb, seconds), asdict(tally))


async def _export_all(store: Store, directory: Path, owner: str | None, tally: Tally) -> None:
    partitions = sorted({name async for name in store.sweeper.partitions()})
    with _progress("export", len(partitions)) as bar:
        for i in range(0, len(partitions), IDENTIFIED_AT_ONCE):
            batch = partitions[i : i + IDENTIFIED_AT_ONCE]
            for whose, conversation in await store.archive.identify(batch):
                if owner in {None, whose}:
                    _make(directory)
                    await _export_one(store, directory, whose, conversation, tally)
            bar.update(len(batch))


async def _export_one(store: Store, directory: Path, owner: str, conversation: Conversation, tally: Tally) -> None:
    path = directory / f"{conversation.id}{SUFFIX}"
    try:
        if _is_current(path, owner, conversation):
            tally.unchanged += 1
            return
        export = await store.archive.export(owner, conversation.id)
        with _replacing(path) as file:
            async for lines in write_lines(export, owner):
                file.write(lines)
        tally.done += 1
    except ConversationNotFound:
        tally.gone += 1
    except OSError as exc:
        tally.fail(path, exc.strerror)


async def _import_one(store: Store, path: Path, owner: str | None, tally: Tally) -> None:
    try:
        with path.open("rb") as file:
            backup = Backup(file)
            owner = owner or backup.owner
            if not owner:
                tally.fail(path, "it names no owner; give one with --owner")
                return
            _, created = await store.archive.restore(owner, backup)
    except OSError as exc:
        tally.fail(path, exc.strerror)
    except InvalidBackup as exc:
        tally.fail(path, exc)
    except ConversationExists as exc:
        tally.fail(path, f"the id {exc.subject} is taken by something else in the store")
    except Conflict:
        tally.fail(path, "another import of this conversation is running")
    else:
        tally.done += created
        tally.unchanged += not created


def _require_folder(directory: Path) -> None:
    """Raise UpkeepError where a folder can't be, before anything is done; it is made once there is something for it."""
    if not next(path for path in (directory, *directory.absolute().parents) if path.exists()).is_dir():
        raise UpkeepError(f"{directory} can't be written: it is no folder, or within none")


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _files(given: Path, tally: Tally) -> Sequence[Path]:
    if not given.is_dir():
        return [given]
    found = sorted(given.glob(f"*{SUFFIX}"))
    if not found:
        tally.fail(given, f"there is no exported conversation in this folder (*{SUFFIX})")
    return found


def _is_current(path: Path, owner: str, conversation: Conversation) -> bool:
    """Tell whether a file is complete and has all that the conversation has."""
    try:
        with path.open("rb") as file:
            head = parse_line(file.readline())
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            last = parse_line(file.readlines()[-1])
    except (FileNotFoundError, ValueError, IndexError):
        return False
    if not isinstance(head, ConversationLine) or not isinstance(last, EndLine):
        return False
    return (head.id, head.owner) == (conversation.id, owner) and head.updated_at >= conversation.updated_at


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file, for this user only, that takes the place of `path` once it has been written without an error."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with open(unfinished, "wb", opener=_open_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _progress(name: str, total: int) -> tqdm[NoReturn]:
    # disable=None: only on a terminal
    return tqdm(desc=name, total=total, unit=" conversations", disable=None, leave=False)
