"""Model call: one client request's question to the model server, asked again without what the model objects to.

reader     what is known of the model that is asked
request    what it is asked, in the form that this reader takes (`context.model_request`)
refusal    names something that the client never sent, or an item of its history: asked again without it, and the
           next questions too; anything else is the client's to know, in its own words (`upstream.complaints`)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from proxy.context.model_request import ModelRequest, View, turn_model_request
from proxy.context.reader import NO_OBJECTIONS, Objections, Reader
from proxy.protocol.errors import UpstreamRefusal
from proxy.protocol.notes import Maker
from proxy.runtime.offload import beside
from proxy.telemetry.records import Attempt, TurnRecord
from proxy.telemetry.traces import TRACESTATE
from proxy.upstream.answer import ModelAnswer
from proxy.upstream.body import ending_of
from proxy.upstream.client import RESPONSES
from proxy.upstream.complaints import find_objection, in_the_clients_words
from proxy.upstream.headers import request_headers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.auth.caller import Caller
    from proxy.context.budget import TokenBudget
    from proxy.protocol.request import TurnRequest
    from proxy.upstream.capabilities import Capabilities
    from proxy.upstream.client import Upstream
    from storage import TurnSource

#: Refusals after which a question is not asked once more; each of them has named something else.
MAX_OBJECTIONS = 8

#: Makes what a reader is asked, and says how many items of the history it is not shown.
Compose: TypeAlias = Callable[[Reader], Awaitable[tuple[ModelRequest, int]]]


@dataclass(slots=True)
class Inbound:
    """What goes along from the client's own request: its headers, of which the upstream gets some, and its query."""

    #: Not shown: credentials are among them.
    headers: Mapping[str, str] = field(repr=False)
    query: str = ""


class ModelCall:
    """Asks the upstream on behalf of one client request, as often as that takes. pairs: see `Reader`."""

    def __init__(
        self,
        upstream: Upstream,
        capabilities: Capabilities,
        budget: TokenBudget,
        caller: Caller,
        inbound: Inbound,
        *,
        pairs: bool = True,
    ) -> None:
        self._upstream = upstream
        self._capabilities = capabilities
        self._budget = budget
        self._inbound = inbound
        self._pairs = pairs
        self._asked: ModelRequest | None = None
        #: What the model refused instead of an answer, and what it is asked without since.
        self._refused: Mapping[str, Any] | None = None
        self._left_out = NO_OBJECTIONS
        self.caller = caller
        #: What the request notes of itself, each attempt among it.
        self.record = TurnRecord()
        #: What the upstream calls the latest call, for the log.
        self.upstream_request_id = "-"

    def reader(self, request: TurnRequest, model: str = "") -> Reader:
        """Return what is known of the model that a request asks, or of another one."""
        name = model or request.model
        objections = self._capabilities.objections(self._upstream.name, name) | self._left_out
        return Reader(self._upstream.name, name, objections, request.exempt_tools, self._pairs)

    def maker(self, request: TurnRequest, model: Any) -> Maker:
        """Return who makes what the upstream answers to a request. model: as it calls itself."""
        return Maker(self._upstream.name, request.model, model if isinstance(model, str) else "")

    async def ask(self, request: TurnRequest, view: Callable[[Reader], View], *, keeps: bool) -> ModelAnswer:
        """Ask for a turn's answer. view: what a reader is shown. keeps: the answer's items will be stored.

        The answer is a context, which gives the connection back. Raises ApiError.
        """

        async def compose(reader: Reader) -> tuple[ModelRequest, int]:
            opened, turn_input = view(reader)
            opened, omitted = await self._budget.fit(request.body, opened, turn_input)
            return turn_model_request(request, reader, opened, turn_input, ask_encrypted=keeps), omitted

        return await self.put(request, compose)

    async def put(
        self, request: TurnRequest, compose: Compose, path: str = RESPONSES, *, model: str = "", purpose: str = ""
    ) -> ModelAnswer:
        """Put a question on behalf of a request. path: below the upstream's URL. model: if it is not the request's.

        purpose: what it is for, where that is not the request's own answer.
        The answer is a context, which gives the connection back. Raises ApiError.
        """
        reader = self.reader(request, model)
        refusals: list[tuple[UpstreamRefusal, Objections]] = []
        while True:
            asked_at = self.record.latest or perf_counter()
            self._asked, omitted = await compose(reader)
            try:
                body = await beside(self._asked.unseen, self._asked.body)
                attempt = Attempt(reader.upstream, reader.model, asked_at, purpose=purpose)
                answer = await self._post(body, path, omitted, attempt)
                break
            except UpstreamRefusal as refusal:
                found = self._object(refusal, refusals)
                if found is None:
                    # not `from refusal`: it may be the same
                    raise in_the_clients_words(refusal, self._asked, request.source) from None
                reader = replace(reader, objections=reader.objections | found)
        if refusals:
            self._remember(reader, refusals)
        return answer

    def object(self, error: Mapping[str, Any] | None) -> bool:
        """Take a refusal that came in place of an answer, under a 200; return whether to ask once more.

        error: of the Response, None if it did not fail. What it names is left out of what this call asks from now on.
        """
        if error is None or self._refused is not None or self._asked is None:
            return False
        found = find_objection(UpstreamRefusal(400, error), self._asked)
        if found is not None:
            self._refused, self._left_out = error, found
        return found is not None

    def learn(self, error: Mapping[str, Any] | None, source: TurnSource) -> Mapping[str, Any] | None:
        """Take how an answer ended: remember what the model objects to, and return the error as the client knows it.

        error: of the Response, None if it did not fail. source: what the request goes on from. What was left out after
        `object` was what was wrong if the model has not said the same again. Of a failure in the middle of an answer
        only what it says of items is remembered, unless it names a place: its words may be about anything.
        """
        refused, left_out = self._refused, self._left_out
        self._refused, self._left_out = None, NO_OBJECTIONS
        if self._asked is None:
            return error
        reader = self._asked.reader
        if left_out and error != refused:
            self._capabilities.note_objections(reader.upstream, reader.model, left_out)
        if error is None:
            return None
        refusal = UpstreamRefusal(400, error)
        found = find_objection(refusal, self._asked)
        if found is not None and (found.seals or found.items or error.get("param")):
            self._capabilities.note_objections(reader.upstream, reader.model, found)
        told = in_the_clients_words(refusal, self._asked, source)
        return error if told is refusal else {name: value for name, value in told.error.items() if value is not None}

    def _object(
        self, refusal: UpstreamRefusal, refusals: list[tuple[UpstreamRefusal, Objections]]
    ) -> Objections | None:
        """Return what a model objects to, None if it is nothing that can be left out; keep what it did before."""
        if self._asked is None or len(refusals) >= MAX_OBJECTIONS:
            return None
        if refusals and refusal.to_dict() == refusals[-1][0].to_dict():
            # it was something else
            refusals.pop()
        found = find_objection(refusal, self._asked)
        if found is not None:
            # its traceback leads to the frame that holds the list
            refusals.append((refusal.with_traceback(None), found))
        else:
            self._remember(self._asked.reader, refusals)
        return found

    def _remember(self, reader: Reader, refusals: list[tuple[UpstreamRefusal, Objections]]) -> None:
        found = NO_OBJECTIONS
        for _, objections in refusals:
            found |= objections
        if found:
            self._capabilities.note_objections(reader.upstream, reader.model, found)

    async def _post(self, body: Sequence[bytes], path: str, omitted: int, attempt: Attempt) -> ModelAnswer:
        record = self.record
        record.attempts.append(attempt)
        record.omitted = omitted
        headers = request_headers(self._inbound.headers, self.caller.credentials)
        if record.trace is not None:
            attempt.span = record.trace.new_span_id()
            headers.popall(TRACESTATE, None)
            headers.update(record.trace.headers(attempt.span))
        # the key stands for the client's request, not for this one, whose history may be another the next time
        headers.popall("Idempotency-Key", None)
        try:
            answer = await self._upstream.create_response(body, headers, self._inbound.query, path=path)
        except BaseException as failure:
            attempt.end(ending_of(failure))
            raise
        attempt.begin(str(answer.status))
        self.upstream_request_id = answer.headers.get("x-request-id", "-")
        return ModelAnswer(answer, self._upstream, omitted, attempt)
