"""`POST /v1/responses/compact`: a context window made short, by the model server or, if it has no such endpoint, here.

The answer's output is what a client goes on with as its whole input: all messages of users as they are, and one
compaction item for the rest. Nothing is stored or locked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.compaction.opener import PURPOSE, TRIGGER, Opener
from proxy.compaction.summary import Summariser, Summary
from proxy.context.compacted import Compacted, is_summary, kind_of, pack, split, window
from proxy.http.body import read_json
from proxy.http.keys import UPSTREAM_REQUEST_ID
from proxy.protocol import ids
from proxy.protocol.errors import BadRequest, UpstreamRefusal, missing_parameter
from proxy.protocol.items import to_upstream
from proxy.protocol.request import TurnRequest, read_request
from proxy.services import SERVICES
from proxy.turns.opening import look, partition_for
from proxy.upstream.call import Inbound, call_upstream
from proxy.upstream.capabilities import means_absence
from proxy.upstream.client import read_body
from proxy.upstream.headers import response_headers

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from proxy.auth.caller import Caller
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
    asked = read_compact(await read_json(request))
    compactor = Compactor(request.app[SERVICES], request[CALLER], asked, Inbound.of(request))
    async with AsyncExitStack() as stack:
        body, headers = await compactor.compact(stack)
    request[UPSTREAM_REQUEST_ID] = compactor.upstream_request_id
    return web.Response(body=body, headers=headers, content_type="application/json")


def read_compact(body: Mapping[str, Any]) -> TurnRequest:
    """Check a request body, which is a turn's without an answer. Raises BadRequest."""
    if not body.get("model"):
        raise missing_parameter("model")
    return read_request({**body, "store": False, "stream": False, "background": False})


class Compactor:
    """Makes one window short."""

    def __init__(self, services: Services, caller: Caller, request: TurnRequest, inbound: Inbound) -> None:
        self._services = services
        self._caller = caller
        self._request = request
        self._inbound = inbound
        self._partition = partition_for(request)
        #: What the upstream calls its part, for the log.
        self.upstream_request_id = "-"

    async def compact(self, stack: AsyncExitStack) -> tuple[bytes, CIMultiDict[str]]:
        """Return the answer and the headers that go along. Raises ApiError, StoreError."""
        items = await self._read_window()
        if not any(not kind_of(item).is_standing and not is_summary(item) for item in items):
            raise BadRequest("There is nothing to compact.", param="input")
        mode, absences, model = self._services.config.compaction.upstream, self._services.absences, self._request.model
        if mode == "own" or (mode == "auto" and absences.has(PATH, model)):
            return await self._compact_here(stack, items)
        try:
            body, headers = await self._forward(stack, items)
        except UpstreamRefusal as refusal:
            if mode == "native" or not means_absence(refusal):
                raise
        else:
            if mode == "native" or _is_compaction(body):
                return body, headers
        absences.note(PATH, model)
        return await self._compact_here(stack, items)

    async def _read_window(self) -> list[bytes]:
        opened, prepared = await look(self._services, self._caller.owner, self._request)
        brought = [item for item in split(prepared.sent) if kind_of(item).type != TRIGGER]
        opener = Opener(self._services, self._caller.owner, self._request)
        return [item for _, item in window([*opened.items, *brought], opener.open)]

    async def _forward(self, stack: AsyncExitStack, items: Sequence[bytes]) -> tuple[bytes, CIMultiDict[str]]:
        fields = {name: value for name, value in self._request.body.items() if name not in _OURS}
        body = b"".join((orjson.dumps(fields)[:-1], b',"input":[', to_upstream(b",".join(items)), b"]}"))
        call = call_upstream(self._services, self._caller, self._inbound, body, PATH)
        answer = await stack.enter_async_context(call)
        self.upstream_request_id = answer.headers.get("x-request-id", "-")
        return await read_body(answer, self._services.upstream.max_response_bytes), response_headers(answer.headers)

    async def _compact_here(self, stack: AsyncExitStack, items: Sequence[bytes]) -> tuple[bytes, CIMultiDict[str]]:
        summariser = Summariser(self._services, self._caller, self._request, self._inbound)
        answer = await summariser.ask(stack, items)
        self.upstream_request_id = answer.headers.get("x-request-id", "-")
        summary = await summariser.read(answer)
        return self._answer(summary, items), response_headers(answer.headers)

    def _answer(self, summary: Summary, items: Sequence[bytes]) -> bytes:
        standing = [msgspec.Raw(item) for item in items if kind_of(item).is_standing]
        content = pack(Compacted(summary.text, whole=False, before=standing))
        compaction = {
            "id": self._new_item_id("compaction"),
            "type": "compaction",
            "encrypted_content": self._services.sealer.seal(PURPOSE, self._caller.owner, content),
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
