"""`branchline gc`, `fsck` and `purge`: free what nothing reaches, check that all is well, delete what an owner has.

They work on the store directly, and beside running servers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from proxy.cli.commands.check import store_problem
from proxy.cli.commands.terminal import Terminal
from proxy.stores import open_store
from storage import Purged, Report, Store, Swept, Unavailable

if TYPE_CHECKING:
    from proxy.config.settings import Config

#: Complaints that `fsck` prints; it counts the others.
MAX_PRINTED = 1000


class UpkeepError(Exception):
    """The store can't be worked on; `str()` is one line for the terminal."""


async def collect_garbage(config: Config, every_seconds: float | None, *, as_json: bool = False) -> None:
    """Free what nothing reaches and print what it was; again and again if `every_seconds` are given.

    Raises UpkeepError when the store is not available (if it is to be done again and again: at the first time only) or
    nothing is in it (if it is done once), EmbeddedUnavailable.
    """
    terminal = Terminal(as_json=as_json)
    async with open_store(config, existing=True) as store:
        swept = await _collect_once(store, terminal)
        if every_seconds is None and not swept.partitions:
            raise nothing_found(config, store, None)
        while every_seconds is not None:
            await asyncio.sleep(every_seconds)
            try:
                await _collect_once(store, terminal)
            except UpkeepError as exc:
                print(f"branchline: {exc}", file=sys.stderr)


async def check(config: Config, owner: str, *, as_json: bool = False) -> int:
    """Print every broken invariant, and a summary; return how many there are. owner: '' for all.

    Raises UpkeepError when the store is not available or there is nothing to check, EmbeddedUnavailable.
    """
    async with open_store(config, existing=True) as store:
        with _progress("fsck") as bar:
            try:
                report = await store.auditor.audit(owner, lambda _: _advance(bar))
            except Unavailable as exc:
                raise _unavailable(store, exc) from exc
        if not (report.partitions or report.complaints):
            raise nothing_found(config, store, owner)
    terminal = Terminal(as_json=as_json)
    if not as_json:
        for complaint in report.complaints[:MAX_PRINTED]:
            print(complaint)
    terminal.report(summarize_report(report), _facts(report))
    return len(report.complaints)


def _facts(report: Report) -> dict[str, Any]:
    """Return what an audit found as JSON; asdict makes nonsense of a Counter."""
    return {
        "partitions": report.partitions,
        "conversations": report.conversations,
        "items": report.items,
        "complaints": report.complaints[:MAX_PRINTED],
        "complaint_count": len(report.complaints),
        "garbage": dict(report.garbage),
    }


async def _collect_once(store: Store, terminal: Terminal) -> Swept:
    start = time.monotonic()
    with _progress("gc") as bar:
        try:
            swept = await store.sweeper.sweep_all(lambda _: _advance(bar))
        except Unavailable as exc:
            raise _unavailable(store, exc) from exc
    terminal.report(summarize_sweep(swept, time.monotonic() - start), asdict(swept))
    return swept


async def purge(config: Config, owner: str, *, as_json: bool = False) -> None:
    """Delete everything that belongs to an owner and print what it was.

    Raises UpkeepError when the store is not available or nothing belongs to the owner, EmbeddedUnavailable.
    """
    start = time.monotonic()
    async with open_store(config, existing=True) as store:
        with _progress("purge") as bar:
            try:
                purged = await store.purger.purge(owner, lambda _: _advance(bar))
            except Unavailable as exc:
                raise _unavailable(store, exc) from exc
        if purged == Purged():
            raise nothing_found(config, store, owner)
    Terminal(as_json=as_json).report(summarize_purge(purged, time.monotonic() - start), asdict(purged))


def nothing_found(config: Config, store: Store, owner: str | None) -> UpkeepError:
    """Return what is said to a command that found nothing to work on. owner: whose things were looked for, if any's."""
    place = f"{store.description}, under the prefix {config.redis.prefix}"
    if not owner:
        return UpkeepError(f"nothing is stored in {place}")
    how = "owners are written as key:NAME, jwt:…, token:…, anonymous or local"
    return UpkeepError(f"nothing belongs to the owner {owner} in {place}; {how}")


def summarize_purge(purged: Purged, seconds: float) -> str:
    """Return one line about what a purge has deleted."""
    deleted = ", ".join(
        [
            _count(purged.conversations, "conversation"),
            _count(purged.responses, "response"),
            _count(purged.keys, "key"),
        ]
    )
    return f"deleted {deleted} in {_count(purged.partitions, 'partition')}, {seconds:.1f} s"


def summarize_sweep(swept: Swept, seconds: float) -> str:
    """Return one line about what a sweep has freed."""
    freed = ", ".join(
        [
            _count(swept.segments, "segment"),
            _count(swept.items, "item"),
            _count(swept.entries, "index entry", "index entries"),
            _count(swept.notes, "note"),
        ]
    )
    anew = f", counted the bytes of {swept.miscounts:,} anew" if swept.miscounts else ""
    return f"freed {freed} in {_count(swept.partitions, 'partition')}{anew}, {seconds:.1f} s"


def summarize_report(report: Report) -> str:
    """Return two lines or one about what an audit has found."""
    checked = ", ".join(
        [
            _count(report.partitions, "partition"),
            _count(report.conversations, "conversation"),
            _count(report.items, "item"),
        ]
    )
    lines = [
        f"checked {checked}: {_count(len(report.complaints), 'complaint') if report.complaints else 'all is well'}"
    ]
    left = [f"{kind} {number:,}" for kind, number in sorted(report.garbage.items()) if number]
    if left:
        lines.append(f"left over, without harm: {', '.join(left)}")
    return "\n".join(lines)


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _progress(name: str) -> tqdm[NoReturn]:
    # disable=None: only on a terminal
    return tqdm(desc=name, unit=" partitions", disable=None, leave=False)


def _advance(bar: tqdm[NoReturn]) -> None:
    bar.update()


def _unavailable(store: Store, exc: Unavailable) -> UpkeepError:
    return UpkeepError(f"{store.description} {store_problem(exc)}")
