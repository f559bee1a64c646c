"""A turn's input beside its history: what is already known, what is new, what the upstream gets. Pure.

Stored history is never parsed here: it is bytes, spliced into the request as `context.model_input` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from proxy.context.compacted import calls_after, mentions
from proxy.context.pairing import answer_by_name, find_call, settled_calls
from proxy.protocol.calls import mark_of
from proxy.protocol.errors import BadRequest, item_not_found
from proxy.protocol.ids import moved
from proxy.protocol.items import InputItem, check_content, dump, is_edited, item_id_of, stored_entry
from proxy.protocol.notes import Maker, note_of
from proxy.protocol.request import TurnRequest
from storage import Entry, OpenedTurn, Origin, pair, partition_of

#: Most items of an answer that are looked past for the input that it answers.
_ANSWER_ITEMS = 256
_INPUT_ROLES = frozenset({"user", "system", "developer"})


@dataclass(slots=True)
class TurnInput:
    """entries: the new items for the store. items: what the upstream gets after the history, in their form.

    paths: where the request has each of these, `input[0]`. known: ids of those that the store had already.
    """

    entries: list[Entry]
    items: Sequence[bytes]
    paths: Sequence[str] = ()
    known: frozenset[str] = frozenset()

    @property
    def own_paths(self) -> dict[str, str]:
        """Where the request has the items that it brings itself, by their ids."""
        places = {item_id_of(item): path for item, path in zip(self.items, self.paths, strict=False)}
        return {item_id: path for item_id, path in places.items() if item_id and item_id not in self.known}


def prepare(
    request: TurnRequest,
    opened: OpenedTurn,
    new_id: Callable[[str], str],
    *,
    check_calls: bool = True,
    takes_edits: bool = False,
) -> TurnInput:
    """Sort a request's items out against what the store knows.

    An item with a known id is the stored one, whatever the client sent beside it, unless the id is the client's own and
    stands for something else now; one that the history has is not sent twice. Tool calls and outputs are paired over
    history and input together, unless `check_calls` is off. Raises NotFound for an unknown reference; BadRequest for a
    repeated id or an unpaired call or output.

    takes_edits: an item that says something else than the stored one under its id is the app's own edit, and new.
    """
    entries: list[Entry] = []
    sent: list[bytes] = []
    paths: list[str] = []
    seen: set[str] = set()
    items = answer_by_name(request.items, opened, is_strict=check_calls)
    for item in items:
        if item.id is not None:
            if item.id in seen:
                raise BadRequest(
                    f"Duplicate item found with id {item.id}. Remove duplicate items from your input and try again.",
                    param="input",
                )
            seen.add(item.id)
        if item.type == "compaction_trigger":
            sent.append(orjson.dumps(item.body))
            paths.append(item.path)
            continue
        if takes_edits and item.id and item.id in opened.known and is_edited(item, opened.known[item.id].data):
            item = replace(item, id=None)
        entry = _to_entry(item, request, opened, new_id)
        if entry is not None:
            entries.append(entry)
            sent.append(entry.data)
            paths.append(item.path)
    if check_calls and "compaction" not in [item.type for item in items]:
        _check_calls(entries, opened, items, request.source.conversation_id)
    return TurnInput(entries, sent, paths, frozenset(opened.known))


def _to_entry(item: InputItem, request: TurnRequest, opened: OpenedTurn, new_id: Callable[[str], str]) -> Entry | None:
    known = opened.known.get(item.id) if item.id else None
    if known is None:
        if item.body is None:
            raise item_not_found(item.id or "", "input", referenced=True)
        return item.to_entry(new_id, request.exempt_tools)
    check_content(item, known.data)
    if known.in_history:
        return None
    return stored_entry(known, request.exempt_tools)


def _check_calls(
    entries: Sequence[Entry], opened: OpenedTurn, items: Iterable[InputItem], conversation_id: str | None
) -> None:
    """Refuse an output without its call and a call without its output, as OpenAI does (after hydration)."""
    if not opened.pending and not [entry for entry in entries if entry.mark.sign]:
        return
    compacted = opened.pending and mentions(opened.items)
    waiting = calls_after(opened.items, opened.pending) if compacted else opened.pending
    paired = pair((entry.mark for entry in entries), waiting=waiting, known=opened.calls)
    if paired.unmatched:
        call = _spoken(paired.unmatched[0], items)
        raise BadRequest(f"No tool call found for function call output with call_id {call}.", param="input")
    if paired.waiting and (left := paired.waiting - settled_calls(opened, paired.waiting)):
        found = find_call(opened.items, min(left))
        call, advice = (
            (found.call_id, _advice(found.item_id, conversation_id)) if found else (_spoken(min(left), items), "")
        )
        raise BadRequest(f"No tool output found for function call {call}.{advice}", param="input")


def _advice(item_id: str, conversation_id: str | None) -> str:
    other = "go on from a response before it"
    if conversation_id:
        other = f"delete the item (DELETE /v1/conversations/{conversation_id}/items/{item_id})"
    return f" It is item '{item_id}' of the stored history: send its output with the input, or {other}."


def _spoken(call: str, items: Iterable[InputItem]) -> str:
    """Return the call id as the client wrote it, where the input has it."""
    for item in items:
        if item.body and mark_of(item.body).key == call:
            return str(item.body["call_id"])
    return call


def moved_entry(entry: Entry, partition: str, *, stored: bool) -> Entry:
    """Return an item of a turn that will live in a partition after all: with an id that leads there."""
    if entry.origin is Origin.REFERENCE or (entry.origin is Origin.MINTED and partition_of(entry.id) == partition):
        return entry
    item_id = moved(entry.id, partition, stored=stored)
    rest = entry.data[len(b'{"id":"') + len(entry.id) :]
    return Entry(Origin.MINTED, item_id, b'{"id":"' + item_id.encode() + rest, entry.mark, entry.note)


def output_entries(
    items: Iterable[Mapping[str, Any]], exempt: frozenset[str], maker: Maker | None = None
) -> list[Entry]:
    """Return a turn's output items as the store takes them; their ids were minted for this turn. maker: of them all."""
    made = [dict(item) for item in items]
    return [Entry(Origin.MINTED, item["id"], dump(item), mark_of(item, exempt), note_of(item, maker)) for item in made]


def ends_with_turn_of(history: Sequence[bytes], entries: Sequence[Entry]) -> bool:
    """Tell whether a history ends with items that say the same as these, and what was answered to them."""
    wanted = [_said(entry.data) for entry in entries]
    recent = [_said(item) for item in history[-(_ANSWER_ITEMS + len(wanted)) :]]
    for begin in range(len(recent) - len(wanted), -1, -1):
        if recent[begin : begin + len(wanted)] == wanted:
            return bool(wanted) and not any(map(_is_input, recent[begin + len(wanted) :]))
    return False


def _said(item: bytes) -> dict[str, Any]:
    """Return an item without what is not its sender's."""
    content: dict[str, Any] = orjson.loads(item)
    content.pop("id", None)
    return content


def _is_input(item: Mapping[str, Any]) -> bool:
    return item.get("role") in _INPUT_ROLES or str(item.get("type")).endswith("_output")
