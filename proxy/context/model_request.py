"""Model request: what the model server is sent, the history spliced into the client's own request. Pure.

fields    the client's own, without those that concern state, which is ours
added     what is added to them here, each of which the model may object to; the client never asked for it
input     history and the request's own items, in the form in which this model takes them (`context.model_input`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import orjson

from proxy.context.input import TurnInput
from proxy.context.model_input import Given, ModelInput, model_input
from proxy.context.plain import seen_plain
from proxy.context.reader import Reader
from proxy.protocol.items import item_id_of
from proxy.protocol.params import ENCRYPTED_REASONING
from proxy.protocol.request import TurnRequest
from storage import HistoryItems, OpenedTurn

#: What the upstream must not see: state is ours.
_OURS = frozenset({"conversation", "previous_response_id", "background", "background_options", "input", "store"})

#: What is about an answer, where none is asked for.
_OF_ANSWERS = frozenset({"stream", "stream_options"})


#: What a turn's model is shown, before it is brought into the form that it takes.
View: TypeAlias = tuple[OpenedTurn, TurnInput]


class SentItem(NamedTuple):
    """An item as it was sent. id: of a stored one, else ''. path: where the request has it, else ''."""

    data: bytes

    id: str
    path: str


@dataclass(slots=True)
class ModelRequest:
    """A request for one reader, which nobody changes.

    own_paths: of items that stand in the history here although the request brings them itself, see `TurnInput`.
    has_input: it has the field even if there are no items.
    """

    reader: Reader
    opened: OpenedTurn
    turn_input: TurnInput
    fields: Mapping[str, Any]
    added: Mapping[str, Any] = field(default_factory=dict)
    own_paths: Mapping[str, str] = field(default_factory=dict)
    has_input: bool = True
    _sent: ModelInput | None = None

    @property
    def _history(self) -> HistoryItems | None:
        """The history, if it was read from the store as it is."""
        return self.opened.items if isinstance(self.opened.items, HistoryItems) else None

    @property
    def unseen(self) -> int:
        """How many items have to be looked at to make the body."""
        return len(self.opened.items) + len(self.turn_input.items) - seen_plain(self._history)

    @property
    def sent(self) -> ModelInput:
        """The items that are sent."""
        if self._sent is None:
            opened, history = self.opened, self._history
            items = [*opened.items, *self.turn_input.items]
            given = Given(items, opened.notes, opened.severed, len(opened.items), history)
            self._sent = model_input(given, self.reader)
        return self._sent

    @property
    def settings(self) -> dict[str, Any]:
        """All fields but the input."""
        refused, added = self.reader.objections.settings, self.added
        if refused:
            added = {name: value for name, value in added.items() if name not in refused}
        named = {"model": self.reader.alias} if self.reader.alias else {}
        return {**self.fields, **added, **named}

    def body(self) -> list[bytes]:
        """Return the request as JSON, cut anywhere, the items spliced in as they are."""
        fields = orjson.dumps(self.settings)
        if not (self.has_input or self.sent.places):
            return [fields]
        start = b',"input":[' if len(fields) > len(b"{}") else b'"input":['
        return [fields[:-1] + start, *self.sent.pieces, b"]}"]

    @property
    def sent_items(self) -> Sequence[SentItem]:
        """The items that are sent, each with where it came from."""
        history = len(self.opened.items)
        return [
            self._origin(data, place, place - history)
            for data, place in zip(self.sent.items, self.sent.places, strict=True)
        ]

    def _origin(self, data: bytes, place: int, own: int) -> SentItem:
        if own < 0:
            item_id = item_id_of(self.opened.items[place])
            path = self.own_paths.get(item_id, "")
            return SentItem(data, "" if path else item_id, path)
        item_id = item_id_of(self.turn_input.items[own])
        path = self.turn_input.paths[own] if own < len(self.turn_input.paths) else ""
        return SentItem(data, item_id if item_id in self.turn_input.known else "", path)


def turn_model_request(
    request: TurnRequest, reader: Reader, opened: OpenedTurn, turn_input: TurnInput, *, ask_encrypted: bool
) -> ModelRequest:
    """Return what a turn asks: the client's own fields, with the history and `store: false`.

    ask_encrypted: request reasoning.encrypted_content, so that stored reasoning can be replayed.
    """
    fields = {name: value for name, value in request.body.items() if name not in _OURS}
    added: dict[str, Any] = {"store": False}
    if ask_encrypted and not request.show_encrypted:
        added["include"] = [*(fields.get("include") or ()), ENCRYPTED_REASONING]
    return ModelRequest(reader, opened, turn_input, fields, added, has_input=request.body.get("input") is not None)


def count_model_request(
    request: TurnRequest, reader: Reader, opened: OpenedTurn, turn_input: TurnInput
) -> ModelRequest:
    """Return what the upstream counts the tokens of: as a turn's, less what is about its answer."""
    dropped = _OURS | _OF_ANSWERS
    fields = {name: value for name, value in request.body.items() if name not in dropped}
    return ModelRequest(reader, opened, turn_input, fields, has_input=request.body.get("input") is not None)
