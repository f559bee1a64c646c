"""Model call: one client request's question to the model server, asked again without what the model objects to.

reader     what is known of the model that is asked
request    what it is asked, in the form that this reader takes (`context.model_request`)
refusal    names something that the client never sent, or an item of its history: asked again without it, and the
           next questions too; anything else is the client's to know, in its own words (`upstream.complaints`)
failure    of the server, before its first output: the next one that serves the model is asked (`upstream.failover`)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from proxy.context.model_request import ModelRequest, View, turn_model_request
from proxy.context.reader import NO_OBJECTIONS, Objections, Reader
from proxy.protocol.errors import ApiError, UpstreamRefusal
from proxy.protocol.notes import Maker
from proxy.runtime.offload import beside
from proxy.telemetry.records import Attempt, TurnRecord
from proxy.telemetry.traces import TRACESTATE
from proxy.upstream.answer import ModelAnswer
from proxy.upstream.attempts import is_for_others, is_the_servers_own
from proxy.upstream.body import ending_of
from proxy.upstream.client import OPENAI, RESPONSES
from proxy.upstream.complaints import find_objection, in_the_clients_words
from proxy.upstream.failover import AnswerEnd, Route, newest_sealer
from proxy.upstream.headers import request_headers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.auth.caller import Caller
    from proxy.context.budget import TokenBudget
    from proxy.protocol.request import TurnRequest
    from proxy.upstream.capabilities import Capabilities
    from proxy.upstream.choice import Upstreams
    from proxy.upstream.client import Upstream
    from storage import TurnSource

log = logging.getLogger(__name__)

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
    """Asks upstreams on behalf of one client request, as often as that takes. pairs: see `Reader`."""

    def __init__(
        self,
        upstreams: Upstreams,
        capabilities: Capabilities,
        budget: TokenBudget,
        caller: Caller,
        inbound: Inbound,
        *,
        pairs: bool = True,
    ) -> None:
        self._upstreams = upstreams
        self._capabilities = capabilities
        self._budget = budget
        self._inbound = inbound
        self._pairs = pairs
        self._asked: ModelRequest | None = None
        #: Where the latest question goes; put again, the next one is still that question.
        self._route: Route | None = None
        self._goes_on = False
        #: What the model refused instead of an answer, and what it is asked without since.
        self._refused: Mapping[str, Any] | None = None
        self._left_out = NO_OBJECTIONS
        self.caller = caller
        #: What the request notes of itself, each attempt among it.
        self.record = TurnRecord()
        #: The latest request of which is known how it ended.
        self._judged: Attempt | None = None
        #: What the upstream calls the latest call, for the log.
        self.upstream_request_id = "-"

    def reader(self, request: TurnRequest, model: str = "") -> Reader:
        """Return what is known of the model that a request asks, or of another one."""
        name = model or request.model
        return self._reader_at(self._server(name), name, request)

    def maker(self, request: TurnRequest, model: Any) -> Maker:
        """Return who makes what the upstream answers to a request. model: as it calls itself."""
        address = self._server(request.model).address
        return Maker(address, request.model, model if isinstance(model, str) else "")

    def is_native(self, model: str) -> bool:
        """Whether each server that serves a model is known to compact by itself. Raises BadRequest, NotFound."""
        return all(server.provider == OPENAI for server in self._upstreams.choose(model))

    def is_absent(self, path: str, model: str) -> bool:
        """Whether the server that would be asked is known to have no such path. Raises BadRequest, NotFound."""
        return self._capabilities.is_absent(path, self._server(model).name, model)

    def note_absent(self, path: str, model: str) -> None:
        """Remember that the server that was asked last has no such path."""
        self._capabilities.note_absent(path, self._server(model).name, model)

    async def ask(self, request: TurnRequest, view: Callable[[Reader], View], *, keeps: bool) -> ModelAnswer:
        """Ask for a turn's answer. view: what a reader is shown. keeps: the answer's items will be stored.

        The answer is a context, which gives the connection back. Raises ApiError.
        """

        async def compose(reader: Reader) -> tuple[ModelRequest, int]:
            (opened, turn_input), omitted = view(reader), 0
            if request.body.get("truncation") == "auto":
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
        name = model or request.model
        route, goes_on = self._route, self._goes_on
        if route is None or not goes_on:
            route = self._route = await self._new_route(request, name, compose)
        self._goes_on = False
        while True:
            try:
                return await self._put_to(route.server, request, name, compose, path, purpose)
            except ApiError as failure:
                if not self._fails_over(failure):
                    raise

    def goes_elsewhere(self, failure: ApiError) -> bool:
        """Take how an answer failed of which the client knows nothing; return whether to ask another server."""
        self._goes_on = self._fails_over(failure)
        return self._goes_on

    async def _put_to(
        self, server: Upstream, request: TurnRequest, name: str, compose: Compose, path: str, purpose: str
    ) -> ModelAnswer:
        """Put a question to one server, as often as it objects to something that it can do without."""
        reader = self._reader_at(server, name, request)
        refusals: list[tuple[UpstreamRefusal, Objections]] = []
        while True:
            asked_at = self.record.latest or perf_counter()
            self._asked, omitted = await compose(reader)
            try:
                body = await beside(self._asked.unseen, self._asked.body)
                attempt = Attempt(server.name, reader.model, asked_at, purpose=purpose)
                answer = await self._post(server, name, body, path, omitted, attempt)
                break
            except UpstreamRefusal as refusal:
                found = self._object(refusal, refusals)
                if found is None:
                    # not `from refusal`: it may be the same
                    raise in_the_clients_words(refusal, self._asked, request.source) from None
                self._end(worked=True)
                reader = replace(reader, objections=reader.objections | found)
        if refusals:
            self._remember(reader, refusals)
        return answer

    def has_answered(self, error: Mapping[str, Any] | None) -> bool:
        """Take how an answer ended; return whether it is one. error: of the Response, None if it did not fail."""
        if error is None:
            self._end(worked=True)
        return error is None

    def asks_again(self, end: AnswerEnd) -> bool:
        """Take how an answer ended; return whether to put the question once more.

        Where it was a refusal in place of an answer, under a 200, what that names is left out of what this call asks
        from now on; where the server failed, another one is asked.
        """
        if end.error is None or self._asked is None:
            self._end(worked=True)
            return False
        if not end.is_told and not end.fault and self._refused is None:
            found = find_objection(UpstreamRefusal(400, end.error), self._asked)
            if found is not None:
                self._refused, self._left_out = end.error, found
                self._end(worked=True)
                self._goes_on = True
                return True
        is_the_servers = bool(end.fault) or is_the_servers_own(end.reason)
        is_new = self._end(worked=not is_the_servers)
        self._goes_on = is_new and is_the_servers and not end.is_told and self._next()
        return self._goes_on

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
            self._note(reader, left_out)
        if error is None:
            return None
        refusal = UpstreamRefusal(400, error)
        found = find_objection(refusal, self._asked)
        if found is not None and (found.seals or found.items or error.get("param")):
            self._note(reader, found)
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
            self._note(reader, found)

    def _note(self, reader: Reader, found: Objections) -> None:
        self._capabilities.note_objections(reader.name or reader.upstream, reader.model, found)

    def _server(self, model: str) -> Upstream:
        """Return the server that is asked about a model, or would be. Raises BadRequest, NotFound."""
        if self._route is not None and self._route.model == model:
            return self._route.server
        return self._upstreams.choose(model)[0]

    def _reader_at(self, server: Upstream, model: str, request: TurnRequest) -> Reader:
        name = server.name if server.mark else ""
        return Reader(
            server.address,
            model,
            self._capabilities.objections(name or server.address, model) | self._left_out,
            request.exempt_tools,
            self._pairs,
            name,
            not name or server is self._upstreams.rest,
            server.alias(model),
        )

    async def _new_route(self, request: TurnRequest, model: str, compose: Compose) -> Route:
        """Return where a question goes: to the server that sealed what it has last, if that serves the model."""
        servers = self._upstreams.choose(model)
        if len(servers) == 1:
            return Route(model, servers)
        asked, _ = await compose(self._reader_at(servers[0], model, request))
        return Route(model, servers, newest_sealer(asked, self._upstreams))

    def _fails_over(self, failure: ApiError) -> bool:
        is_elsewhere = is_for_others(failure)
        return self._end(worked=not is_elsewhere) and is_elsewhere and self._next()

    def _next(self) -> bool:
        """Turn to the next server; return whether there is one."""
        route = self._route
        if route is None:
            return False
        before = route.server
        if not route.advance():
            return False
        log.warning(
            "upstream %s failed (%s), %s is asked", before.name, self.record.attempts[-1].status, route.server.name
        )
        # what the one before objected to says nothing of this one
        self._refused, self._left_out = None, NO_OBJECTIONS
        return True

    def _end(self, *, worked: bool) -> bool:
        """Know how the latest request ended; return False if that was known before."""
        attempt = self.record.attempts[-1] if self.record.attempts else None
        if attempt is None or attempt is self._judged or self._route is None:
            return False
        self._judged = attempt
        self._route.server.note(worked=worked)
        return True

    async def _post(
        self, server: Upstream, model: str, body: Sequence[bytes], path: str, omitted: int, attempt: Attempt
    ) -> ModelAnswer:
        record = self.record
        record.attempts.append(attempt)
        record.omitted = omitted
        headers = request_headers(self._inbound.headers, server.credentials(self.caller.credentials))
        if record.trace is not None:
            attempt.span = record.trace.new_span_id()
            headers.popall(TRACESTATE, None)
            headers.update(record.trace.headers(attempt.span))
        # the key stands for the client's request, not for this one, whose history may be another the next time
        headers.popall("Idempotency-Key", None)
        try:
            answer = await server.create_response(body, headers, self._inbound.query, path=path)
        except BaseException as failure:
            attempt.end(ending_of(failure))
            raise
        attempt.begin(str(answer.status))
        self.upstream_request_id = answer.headers.get("x-request-id", "-")
        return ModelAnswer(answer, server, attempt, model, omitted)
