"""Invariants: what must hold in every partition, whatever has happened; each yields a sentence for what breaks it."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from storage.calls import NO_MARK, pair
from storage.client.values import FIELD_BREAK, place_of, score_of, split_calls
from storage.maintenance.partition import CLOSED_CHAIN, OPEN_CHAIN, Partition, Span, reach_of
from storage.partitions import partition_of

#: Seconds by which two lifetimes that were read one after the other may differ.
TOLERANCE_SECONDS = 1.0

_LASTING = re.compile(r"partition|conversation|branches|index|tombstones|journal|digests|branch:\d+|holders:\d+")
#: What may be there without a partition: it is for a moment only.
_TRANSIENT = ("lock:", "commit:", "events:", "staged:", "pieces:")
_BRANCH_FIELDS = ("name", "chain", "created_at", "updated_at")
_JOB_FIELDS = ("token", "job", "attempts", "lease_until", "lock", "accepted_at")
_RESPONSE_FIELDS = ("status", "body", "snapshot", "context", "output", "pending", "created_at")


def complaints(partition: Partition) -> Iterator[str]:
    """Yield what is wrong with a partition, one sentence each."""
    yield from partition.faults
    yield from _of_lifetimes(partition)
    yield from _of_head(partition)
    yield from _of_responses(partition)
    yield from _of_jobs(partition)
    yield from _of_logs(partition)
    yield from _of_index_places(partition)
    yield from _of_pieces(partition)
    if partition.conversation is None:
        return
    yield from _of_names(partition)
    for line in sorted(partition.branches):
        yield from _of_branch(partition, line)
        yield from _of_pending(partition, line)
        yield from _of_told(partition, line)
    yield from _of_repeats(partition)
    yield from _of_reached_items(partition)
    yield from _of_holders(partition)
    yield from _of_tombstones(partition)
    yield from _of_journal(partition)


def garbage(partition: Partition) -> Counter[str]:
    """Count what a sweep would free: it does no harm, and takes memory."""
    found: Counter[str] = Counter()
    if partition.conversation is None:
        return found
    reached = partition.reached
    for segment, ids in partition.segments.items():
        until, to = partition.reach_noted(segment)
        lasts = partition.lives.get(f"segment:{segment}") == math.inf or f"holders:{segment}" in partition.scores
        known = until > partition.now_ms or lasts
        for offset, item in enumerate(ids):
            if item and known and not reached[segment][offset] and (until <= partition.now_ms or offset >= to):
                found["items"] += 1
    for key, value in partition.index.items():
        if key.startswith("call:"):
            found["index entries"] += value not in partition.index
        else:
            places, _ = partition.entries[key]
            found["index entries"] += not any(partition.is_there(segment) for segment, _ in places)
    found["items"] += len(partition.pieces_noted.keys() - partition.parted.keys())
    for name in ("journal", "tombstones"):
        for score in partition.scores.get(name, {}).values():
            found["notes"] += not partition.is_there(place_of(score)[0])
    return found


def _of_lifetimes(partition: Partition) -> Iterator[str]:
    living = partition.conversation is not None
    held = {segment for chain in partition.branch_chains.values() for segment in reach_of(chain)} if living else set()
    kept = {f"segment:{segment}" for segment in held}
    # what is not noted is about to be stored, or never will be
    kept |= {f"pieces:{name}" for name, (segment, _) in partition.pieces_noted.items() if segment in held}
    # the partition's key goes first: without it nothing is found
    first = partition.lives.get("partition", math.inf)
    for name, seconds in partition.lives.items():
        lasting = living and (name in kept or _LASTING.fullmatch(name) is not None)
        if lasting and seconds < first - TOLERANCE_SECONDS:
            yield f"{name} expires although the conversation lives"
        if seconds == math.inf and not (lasting and first == math.inf):
            yield f"{name} never expires"


def _of_head(partition: Partition) -> Iterator[str]:
    facts, head = partition.conversation, partition.head
    if not head and any(not name.startswith(_TRANSIENT) for name in partition.lives):
        yield "partition is missing"
        return
    # an import gives its partition an owner when it is complete
    if head and not head.get("owner") and "importing" not in head:
        yield "partition has no owner"
    if ("kept" in head) != (facts is not None):
        state = "there is no living conversation" if facts is None else "its conversation lives"
        yield f"partition is {'' if 'kept' in head else 'not '}kept, and {state}"
    used = [*partition.segments, *partition.branches]
    if used and max(used) >= int(head.get("next_segment", 0)):
        yield f"next_segment is {head.get('next_segment', 0)}, and number {max(used)} is in use"
    if facts is not None:
        if partition_of(facts["id"]) != partition.name:
            yield f"conversation {facts['id']} belongs to another partition"
        for listing in partition.unlisted:
            yield f"listing {listing} lacks {facts['id']}"


def _of_responses(partition: Partition) -> Iterator[str]:
    living = partition.conversation is not None
    for name, response in partition.responses.items():
        missing = [one for one in _RESPONSE_FIELDS if one not in response]
        texts = [response.get(one, "") for one in ("snapshot", "context", "output")]
        if missing or not all(CLOSED_CHAIN.fullmatch(text) for text in texts):
            yield f"{name} is damaged: {', '.join(missing) or 'a chain that is none'}"
            continue
        spans = [span for text in texts for span in partition.chain(text)]
        yield from (f"{name} {text}" for text in _out_of_bounds(partition, spans))
        seconds = partition.lives[name]
        needed = {"partition", *(f"segment:{span.segment}" for span in spans), *({"index"} if spans else ())}
        for other in sorted(needed & (partition.lives.keys() | {"partition"})):
            if partition.lives.get(other, -1.0) + TOLERANCE_SECONDS < seconds:
                yield f"{name} lives longer than {other}"
        if living:
            yield from (f"{name} {text}" for text in _unnoted(partition, spans, seconds))


def _of_jobs(partition: Partition) -> Iterator[str]:
    for name, response in partition.responses.items():
        unfinished = name[len("response:") :] in partition.unfinished
        if any((field in response) != unfinished for field in _JOB_FIELDS):
            yield f"{name} is {response.get('status')}, which does not go with what is kept to run it"
        count = partition.job_pieces.get(name[len("response:") :], 0)
        if int(response.get("job_pieces", "0").partition(":")[0]) != count:
            yield f"{name} has {count} pieces of its job, which are not as many as it says"
    for response_id in partition.job_pieces:
        if f"response:{response_id}" not in partition.responses:
            yield f"job:{response_id} is of no response"


def _of_logs(partition: Partition) -> Iterator[str]:
    for name, log in partition.logs.items():
        head_id, head = log[0]
        if head_id != "0-1" or head.keys() != {"owner", "generation"}:
            yield f"{name} does not say whose it is"
        elif head["owner"] != partition.head.get("owner", head["owner"]):
            yield f"{name} is another owner's than its partition"
        number = 0
        for at, (entry_id, fields) in enumerate(log[1:], start=2):
            number += int(fields.get("events", "0"))
            if entry_id != f"{number}-0" or "frames" not in fields:
                yield f"{name} has a gap before {entry_id}"
                break
            if "last" in fields and at < len(log):
                yield f"{name} goes on after its end"


def _unnoted(partition: Partition, spans: list[Span], seconds: float) -> Iterator[str]:
    """Say what of a response's reach the partition does not know, so that a sweep could take it away."""
    for segment, to in reach_of(spans).items():
        until, noted = partition.reach_noted(segment)
        if noted < to or until < partition.now_ms + (seconds - TOLERANCE_SECONDS) * 1000:
            yield f"reads {segment} up to {to} for {seconds:.0f} s, which is not noted"


def _out_of_bounds(partition: Partition, spans: list[Span]) -> Iterator[str]:
    for segment, _, to in spans:
        if segment not in partition.segments:
            yield f"reads segment {segment}, which is not there"
        elif to > partition.length(segment):
            yield f"reads segment {segment} up to {to}, which has {partition.length(segment)} elements"


def _of_index_places(partition: Partition) -> Iterator[str]:
    for key, (places, _) in partition.entries.items():
        if not places:
            yield f"index entry {key} names no place"
        for segment, offset in places:
            ids = partition.segments.get(segment, [])
            found = ids[offset] if offset < len(ids) else None
            if partition.is_there(segment) and found != key:
                yield f"index entry {key} leads to {segment}:{offset}, where it is not"


def _of_pieces(partition: Partition) -> Iterator[str]:
    for name, (segment, offset) in partition.parted.items():
        item = partition.segments[segment][offset]
        if (segment, offset) not in partition.entries.get(item, ((), NO_MARK))[0]:
            # staged, and not needed: it was there already, and nobody reads it here
            continue
        where = f"the item at {segment}:{offset}"
        wanted = int(name.partition(".")[2])
        if partition.pieces_noted.get(name) != (segment, offset):
            yield f"{where} lies in pieces {name}, which are not noted"
        if partition.pieces.get(name, 0) != wanted:
            yield f"{where} lies in {wanted} pieces {name}, of which {partition.pieces.get(name, 0)} are there"
        elif partition.lives[f"pieces:{name}"] < partition.lives[f"segment:{segment}"] - TOLERANCE_SECONDS:
            yield f"{where} lies in pieces {name}, which expire before it"


def _of_names(partition: Partition) -> Iterator[str]:
    names = partition.scores.get("branches", {})
    active = (partition.conversation or {}).get("active_branch", "")
    for needed, what in (("MAIN", "MAIN"), (active, f"the active branch {active!r}")):
        if needed not in names:
            yield f"{what} is no branch"
    for name, line in names.items():
        branch = partition.branches.get(line)
        if branch is None:
            yield f"branch {name} is line {line}, which is not there"
        elif branch.get("name") != name:
            yield f"branch {name} is line {line}, which has the name {branch.get('name')}"
    for line in partition.branches.keys() - set(names.values()):
        yield f"line {line} has no name"


def _of_branch(partition: Partition, line: int) -> Iterator[str]:
    branch = partition.branches[line]
    missing = [one for one in _BRANCH_FIELDS if one not in branch]
    text = branch.get("chain", "")
    if missing or not OPEN_CHAIN.fullmatch(text):
        yield f"line {line} is damaged: {', '.join(missing) or 'a chain that is none'}"
        return
    *closed, last = [[int(part or -1) for part in span.split(":")] for span in text.split(",")]
    if last[0] != line:
        yield f"line {line} writes in segment {last[0]}"
    if last[1] > partition.length(last[0]):
        yield f"line {line} starts at {last[1]} in segment {last[0]}, which has {partition.length(last[0])} elements"
    spans = [Span(*span) for span in closed]
    if any(span.start >= span.to for span in spans):
        yield f"line {line} has an empty span"
    yield from (f"line {line} {text}" for text in _out_of_bounds(partition, spans))
    own = bytearray(last[1])
    for segment, start, to in spans:
        if segment == line:
            own[start:to] = b"\1" * (to - start)
    if 0 in own:
        yield f"line {line} does not have all of its own segment"
    read = {str(span.segment) for span in spans}
    for staged in filter(None, branch.get("staged", "").split(",")):
        if staged not in read:
            yield f"line {line} does not read segment {staged}, which was staged for it"


def _of_repeats(partition: Partition) -> Iterator[str]:
    places: dict[str, set[tuple[int, int]]] = {}
    for segment, ids in partition.segments.items():
        for offset, item in enumerate(ids):
            places.setdefault(item, set()).add((segment, offset))
    places.pop("", None)
    several = {item: where for item, where in places.items() if len(where) > 1}
    for line in partition.branches if several else ():
        chain = partition.branch_chains[line]
        for item, where in several.items():
            if sum(any(span.segment == one and span.start <= at < span.to for span in chain) for one, at in where) > 1:
                yield f"line {line} has item {item} in two places"


def _of_reached_items(partition: Partition) -> Iterator[str]:
    reached = partition.reached
    for segment, ids in partition.segments.items():
        for offset, item in enumerate(ids):
            if not item or not reached[segment][offset]:
                continue
            places, mark = partition.entries.get(item, ((), NO_MARK))
            if (segment, offset) not in places:
                yield f"item {item} at {segment}:{offset} is not in the index"
            elif mark.is_call and f"call:{mark.key}" not in partition.index:
                yield f"the call of item {item} is not in the index"


def _of_pending(partition: Partition, line: int) -> Iterator[str]:
    """What waits for an output is what was called and not answered; deletions may have taken away either item."""
    chain = partition.branch_chains[line]
    waiting = pair(mark for span in chain for mark in partition.marks_in(span)).waiting
    stored = set(split_calls(partition.branches[line].get("pending", "")))
    stored = {call for call in stored if f"call:{call}" in partition.index}
    for call in sorted(stored - waiting):
        yield f"line {line} waits for an output of call {call}, which it does not have or which is answered"
    if not _has_gaps(partition, chain):
        for call in sorted(waiting - stored):
            yield f"line {line} does not wait for an output of call {call}"


def _of_told(partition: Partition, line: int) -> Iterator[str]:
    """What the journal tells of the calls that wait at a place is so on each branch that has it and is not mixed.

    Behind a deleted item it need not be: that may have been a call or an output.
    """
    waiting: frozenset[str] = frozenset()
    for span in () if "mixed" in partition.branches[line] else _before_gap(partition, partition.branch_chains[line]):
        start = span.start
        for to, calls in [*partition.told_in(span), (span.to, None)]:
            waiting = pair(partition.marks_in(Span(span.segment, start, to)), waiting=waiting).waiting
            if calls is not None and calls != waiting:
                yield f"line {line} has other calls that wait at {span.segment}:{to} than the journal tells"
                return
            start = to


def _before_gap(partition: Partition, chain: list[Span]) -> Iterator[Span]:
    """Yield what a chain has before its first deleted item."""
    for segment, start, to in chain:
        deleted = partition.deleted.get(segment, [])
        first = bisect_left(deleted, start)
        if first < len(deleted) and deleted[first] < to:
            yield Span(segment, start, deleted[first])
            return
        yield Span(segment, start, to)


def _has_gaps(partition: Partition, chain: list[Span]) -> bool:
    for segment, start, to in chain:
        deleted = partition.deleted.get(segment, [])
        if bisect_left(deleted, start) < bisect_left(deleted, to):
            return True
    return any(one.segment == other.segment and one.to != other.start for one, other in pairwise(chain))


def _of_holders(partition: Partition) -> Iterator[str]:
    expected: dict[str, dict[str, int]] = {}
    for line, chain in partition.branch_chains.items():
        for segment, to in reach_of(chain).items():
            if segment != line:
                expected.setdefault(f"holders:{segment}", {})[str(line)] = to
    there = {name: content for name, content in partition.scores.items() if name.startswith("holders:")}
    for name in sorted(expected.keys() | there.keys()):
        if expected.get(name, {}) != there.get(name, {}):
            yield f"{name} are {there.get(name, {})} instead of {expected.get(name, {})}"


def _of_tombstones(partition: Partition) -> Iterator[str]:
    noted = partition.scores.get("tombstones", {})
    deleted = {
        f"{segment}:{offset}": score_of(segment, offset)
        for segment, offsets in partition.deleted.items()
        for offset in offsets
    }
    for place in sorted(deleted.keys() - noted.keys()):
        yield f"the deleted item at {place} is not noted"
    for place, score in noted.items():
        if partition.is_there(place_of(score)[0]) and deleted.get(place) != score:
            yield f"tombstone {place} stands where nothing was deleted"


def _of_journal(partition: Partition) -> Iterator[str]:
    for entry, score in partition.scores.get("journal", {}).items():
        segment, end = place_of(score)
        length = partition.length(segment)
        source, *rest = entry.split(FIELD_BREAK)
        if len(rest) != 2 or (source.startswith("@") and source != f"@{segment}:{end}"):
            yield f"journal entry {source} at {segment}:{end} is damaged"
        elif partition.is_there(segment) and end > length:
            yield f"journal entry {source} ends at {end} in segment {segment}, which has {length} elements"
