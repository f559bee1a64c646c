"""Request body: what the model server is sent, the history spliced into the client's own request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from proxy.context.input import TurnInput
from proxy.protocol.items import to_upstream
from proxy.protocol.params import ENCRYPTED_REASONING
from proxy.protocol.request import TurnRequest
from storage import OpenedTurn

#: What the upstream must not see: state is ours.
_OURS = frozenset({"conversation", "previous_response_id", "background", "background_options", "input"})

#: What is about an answer, where none is asked for.
_OF_ANSWERS = frozenset({"store", "stream", "stream_options"})


def upstream_body(request: TurnRequest, opened: OpenedTurn, turn_input: TurnInput, *, ask_encrypted: bool) -> bytes:
    """Return the body for the upstream: the client's own, with the history and `store: false`, without our fields.

    ask_encrypted: request reasoning.encrypted_content, so that stored reasoning can be replayed.
    """
    fields: dict[str, Any] = {key: value for key, value in request.body.items() if key not in _OURS}
    fields["store"] = False
    if ask_encrypted and not request.show_encrypted:
        fields["include"] = [*(fields.get("include") or ()), ENCRYPTED_REASONING]
    return _splice(fields, request, opened, turn_input)


def count_body(request: TurnRequest, opened: OpenedTurn, turn_input: TurnInput) -> bytes:
    """Return the body that the upstream counts the tokens of: as that of the turn, less what is about its answer."""
    dropped = _OURS | _OF_ANSWERS
    fields = {key: value for key, value in request.body.items() if key not in dropped}
    return _splice(fields, request, opened, turn_input)


def body_with_input(fields: Mapping[str, Any], items: Iterable[bytes]) -> bytes:
    """Return a request as JSON: its fields, without `input`, and items spliced in as they are, some at a time."""
    start = b',"input":[' if fields else b'"input":['
    sent = to_upstream(b",".join([item for item in items if item]))
    return b"".join((orjson.dumps(fields)[:-1], start, sent, b"]}"))


def _splice(fields: Mapping[str, Any], request: TurnRequest, opened: OpenedTurn, turn_input: TurnInput) -> bytes:
    history = opened.history
    if not (history or turn_input.sent) and request.body.get("input") is None:
        return orjson.dumps(fields)
    return body_with_input(fields, (history, turn_input.sent))
