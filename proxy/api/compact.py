"""`POST /v1/responses/compact`: a context window made short, by the model server or, if it has no such endpoint, here.

The answer's output is what a client goes on with as its whole input: all messages of users as they are, and one
compaction item for the rest. Nothing is stored or locked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from aiohttp import web

from proxy.api.turns import asking, take_here
from proxy.compaction.opener import PURPOSE, TRIGGER, Opener
from proxy.compaction.summary import Summariser, Summary
from proxy.context.compacted import Compacted, is_summary, kind_of, pack, window
from proxy.context.input import TurnInput
from proxy.context.model_input import reads_compaction
from proxy.context.model_request import ModelRequest
from proxy.http.body import read_json
from proxy.http.keys import CONFIG
from proxy.protocol import ids
from proxy.protocol.errors import BadRequest, UpstreamRefusal, missing_parameter
from proxy.protocol.request import TurnRequest, read_request
from proxy.services import SERVICES
from proxy.turns.intake import take_in
from proxy.turns.opening import look
from proxy.upstream.capabilities import means_absence
from proxy.upstream.model_call import ModelCall
from storage import HistoryLimit, OpenedTurn

if TYPE_CHECKING:
    from proxy.context.reader import Reader
    from proxy.services import Services

PATH = "/responses/compact"

#: What the upstream must not see, or does not take here.
_OURS = frozenset({"conversation", "previous_response_id", "background", "store", "stream", "input"})
_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


async def compact_window(request: web.Request) -> web.Response:
    """POST /v1/responses/compact: the window that a request describes, made short."""
    asked = await take_in(request.app[CONFIG], await read_json(request), read_compact)
    services = request.app[SERVICES]

    async def compact(most: HistoryLimit | None) -> tuple[bytes, Mapping[str, str]]:
        with asking(request) as call:
            return await Compactor(services, call, asked, most).compact()

    body, headers = await take_here(request, asked.source.subject, compact)
    return web.Response(body=body, headers=headers, content_type="application/json")


def read_compact(body: Mapping[str, Any]) -> TurnRequest:
    """Check a request body, which is a turn's without an answer. Raises BadRequest."""
    if not body.get("model"):
        raise missing_parameter("model")
    return read_request({**body, "store": False, "stream": False, "background": False})


class Compactor:
    """Makes one window short. most_history: see TurnOptions."""

    def __init__(
        self, services: Services, call: ModelCall, request: TurnRequest, most_history: HistoryLimit | None = None
    ) -> None:
        self._services = services
        self._call = call
        self._owner = call.caller.owner
        self._request = request
        self._most_history = most_history
        #: Where the turn would live: its ids name it.
        self._partition = ""
        self._opened = OpenedTurn()
        self._own_paths: Mapping[str, str] = {}

    async def compact(self) -> tuple[bytes, Mapping[str, str]]:
        """Return the answer and the headers that go along. Raises ApiError, StoreError."""
        items = await self._read_window()
        if not any(not kind_of(item).is_standing and not is_summary(item) for item in items):
            raise BadRequest("There is nothing to compact.", param="input")
        mode, model = self._services.config.compaction.upstream, self._request.model
        if mode == "own" or (mode == "auto" and self._call.is_absent(PATH, model)):
            return await self._compact_here(items)
        try:
            body, headers = await self._forward(items)
        except UpstreamRefusal as refusal:
            if mode == "native" or not means_absence(refusal):
                raise
        else:
            if mode == "native" or _is_compaction(body):
                return body, headers
        self._call.note_absent(PATH, model)
        return await self._compact_here(items)

    async def _read_window(self) -> list[bytes]:
        opening = await look(self._services, self._owner, self._request, self._most_history)
        self._partition = opening.lease.partition
        opened, self._own_paths = opening.opened, opening.turn_input.own_paths
        self._opened = opened
        brought = [item for item in opening.turn_input.items if kind_of(item).type != TRIGGER]
        opener, reader = Opener(self._services, self._owner, self._request), self._call.reader(self._request)
        items = [*opened.items, *brought]
        shown = window(items, opener.open, lambda item: reads_compaction(item, opened.notes, reader))
        return [item for _, item in shown]

    async def _forward(self, items: Sequence[bytes]) -> tuple[bytes, Mapping[str, str]]:
        fields = {name: value for name, value in self._request.body.items() if name not in _OURS}
        window_shown = replace(self._opened, items=items)

        async def compose(reader: Reader) -> tuple[ModelRequest, int]:
            return ModelRequest(reader, window_shown, TurnInput([], []), fields, own_paths=self._own_paths), 0

        with await self._call.put(self._request, compose, PATH) as answer:
            return await answer.read(), answer.headers

    async def _compact_here(self, items: Sequence[bytes]) -> tuple[bytes, Mapping[str, str]]:
        summariser = Summariser(self._services, self._call, self._request)
        headers: dict[str, str] = {}

        async def begun(told: Mapping[str, str]) -> None:
            headers.clear()
            headers.update(told)

        summary = await summariser.write(replace(self._opened, items=items), self._own_paths, begun)
        return self._answer(summary, items), headers

    def _answer(self, summary: Summary, items: Sequence[bytes]) -> bytes:
        standing = [msgspec.Raw(item) for item in items if kind_of(item).is_standing]
        content = pack(Compacted(summary.text, whole=False, before=standing))
        compaction = {
            "id": self._new_item_id("compaction"),
            "type": "compaction",
            "encrypted_content": self._services.sealer.seal(PURPOSE, self._owner, content),
        }
        users = [orjson.Fragment(item) for item in items if kind_of(item).is_user and not is_summary(item)]
        return orjson.dumps(
            {
                "id": ids.new_response_id(self._partition, stored=False),
                "object": "response.compaction",
                "created_at": int(time.time()),
                "output": [*users, compaction],
                "usage": summary.usage or _NO_USAGE,
            }
        )

    def _new_item_id(self, item_type: str) -> str:
        return ids.new_turn_item_id(item_type, self._partition, stored=False)


def _is_compaction(body: bytes) -> bool:
    """Whether an answer is a compacted window; some servers answer any path with a page of theirs."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("output"), list)


ROUTES = [web.post("/v1/responses/compact", compact_window)]
