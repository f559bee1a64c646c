"""A turn's input beside its history: what is already known, what is new, what the upstream gets. Pure.

Stored history is never parsed: it is joined bytes, spliced into the request as they are, identical from turn to turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.context.compacted import calls_after, mentions
from proxy.protocol.calls import mark_of
from proxy.protocol.errors import BadRequest, item_not_found
from proxy.protocol.items import InputItem, dump, stored_entry
from proxy.protocol.request import TurnRequest
from storage import Entry, OpenedTurn, Origin, pair


@dataclass(frozen=True, slots=True)
class TurnInput:
    """entries: the new items for the store. sent: items for the upstream after the history, as joined JSON."""

    entries: list[Entry]
    sent: bytes


def prepare(
    request: TurnRequest, opened: OpenedTurn, new_id: Callable[[str], str], *, check_calls: bool = True
) -> TurnInput:
    """Sort a request's items out against what the store knows.

    An item with a known id is the stored one, whatever the client sent beside it; one that the history has is not
    sent twice. Tool calls and outputs are paired over history and input together, unless `check_calls` is off.
    Raises NotFound for an unknown reference; BadRequest for a repeated id or an unpaired call or output.
    """
    entries: list[Entry] = []
    sent: list[bytes] = []
    seen: set[str] = set()
    for item in request.items:
        if item.id is not None:
            if item.id in seen:
                raise BadRequest(
                    f"Duplicate item found with id {item.id}. Remove duplicate items from your input and try again.",
                    param="input",
                )
            seen.add(item.id)
        if item.type == "compaction_trigger":
            sent.append(orjson.dumps(item.body))
            continue
        entry = _to_entry(item, request, opened, new_id)
        if entry is not None:
            entries.append(entry)
            sent.append(entry.data)
    if check_calls and not any(item.type == "compaction" for item in request.items):
        _check_calls(entries, opened, request.items)
    return TurnInput(entries, b",".join(sent))


def _to_entry(item: InputItem, request: TurnRequest, opened: OpenedTurn, new_id: Callable[[str], str]) -> Entry | None:
    known = opened.known.get(item.id) if item.id else None
    if known is None:
        if item.body is None:
            raise item_not_found(item.id or "", "input", referenced=True)
        return item.to_entry(new_id, request.exempt_tools)
    if known.in_history:
        return None
    return stored_entry(known.data, request.exempt_tools)


def _check_calls(entries: Iterable[Entry], opened: OpenedTurn, items: Iterable[InputItem]) -> None:
    """Refuse an output without its call and a call without its output, as OpenAI does (after hydration)."""
    compacted = opened.pending and mentions(opened.items)
    waiting = calls_after(opened.items, opened.pending) if compacted else opened.pending
    paired = pair((entry.mark for entry in entries), waiting=waiting, known=opened.calls)
    if paired.unmatched:
        call = _spoken(paired.unmatched[0], items)
        raise BadRequest(f"No tool call found for function call output with call_id {call}.", param="input")
    if paired.waiting:
        call = _spoken(min(paired.waiting), items)
        raise BadRequest(f"No tool output found for function call {call}.", param="input")


def _spoken(call: str, items: Iterable[InputItem]) -> str:
    """Return the call id as the client wrote it, where the input has it."""
    for item in items:
        if item.body and mark_of(item.body).key == call:
            return str(item.body["call_id"])
    return call


def output_entries(items: Iterable[Mapping[str, Any]], exempt: frozenset[str]) -> list[Entry]:
    """Return a turn's output items as the store takes them; their ids were minted for this turn."""
    return [Entry(Origin.MINTED, item["id"], dump(dict(item)), mark_of(dict(item), exempt)) for item in items]
