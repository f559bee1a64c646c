"""Compaction summary: a summary of a conversation, written by a model of the upstream in a call of its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from proxy.context.input import TurnInput
from proxy.context.model_request import ModelRequest
from proxy.protocol import ids
from proxy.protocol.errors import ApiError, BadGateway
from proxy.relay import Outcome, Ownership, Relay, Splicer
from proxy.telemetry.records import CUT
from proxy.upstream.failover import AnswerEnd
from storage import OpenedTurn, TurnSource, new_partition

if TYPE_CHECKING:
    from proxy.context.reader import Reader
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services
    from proxy.upstream.answer import ModelAnswer
    from proxy.upstream.model_call import ModelCall

#: What the model is told unless `compaction.instructions` says something else.
INSTRUCTIONS = """\
The conversation above is about to be cut off here, and whoever goes on with it will have nothing of it but your \
summary. Write that summary. Do not answer or continue the conversation, and call no tools.

Put down, in the language of the conversation:
1. what the user wants, with every request, constraint and preference that still holds, quoted where wording matters;
2. what has been done and decided so far, and why;
3. the facts that will be needed again, exactly: names, numbers, dates, ids, paths, commands, code, quotations, what \
tools returned, what images and files show;
4. what went wrong and what was learnt from it;
5. what is open, and what the next step is.

Leave out greetings and whatever has been superseded. Invent nothing. Answer with the summary alone."""

#: Fields of the caller's request that concern the call as such; all others are about the answer.
_KEPT_FIELDS = ("instructions", "service_tier", "safety_identifier", "prompt_cache_key", "user")


@dataclass(frozen=True, slots=True)
class Summary:
    """What the model wrote. usage: a Response's, complete, or None. model: as it calls itself."""

    text: str
    usage: dict[str, Any] | None
    model: str


class Summariser:
    """Has summaries written for one request, by `compaction.model` or the request's own."""

    def __init__(self, services: Services, call: ModelCall, request: TurnRequest) -> None:
        self._config = services.config.compaction
        self._budget = services.budget
        self._call = call
        self._request = request

    async def write(
        self, opened: OpenedTurn, own_paths: Mapping[str, str], begun: Callable[[Mapping[str, str]], Awaitable[None]]
    ) -> Summary:
        """Have a summary of a window written and return it.

        opened: the window as a history. own_paths: of what in it the request has brought itself. begun: is given the
        headers of an answer when that begins; again, if the question had to be asked again.
        Raises ApiError if the upstream refuses or can't be reached, BadGateway if there is no text or not all of it.
        """
        while True:
            try:
                outcome, fault = await self._ask(opened, own_paths, begun)
            except ApiError as failure:
                if not self._call.goes_elsewhere(failure):
                    raise
            else:
                if not self._call.asks_again(AnswerEnd.of(outcome, fault)):
                    break
        self._call.learn(outcome.response["error"], self._request.source)
        return _read(outcome)

    async def _ask(
        self, opened: OpenedTurn, own_paths: Mapping[str, str], begun: Callable[[Mapping[str, str]], Awaitable[None]]
    ) -> tuple[Outcome, str]:
        fields, added = self._fields()
        order = orjson.dumps(_message(self._config.instructions or INSTRUCTIONS))
        # a history that has outgrown the model's window could not be summarised otherwise
        limits = {**fields, **added, "truncation": self._request.body.get("truncation")}

        async def compose(reader: Reader) -> tuple[ModelRequest, int]:
            fitted, _ = await self._budget.fit(limits, opened, TurnInput([], [order]))
            return ModelRequest(reader, fitted, TurnInput([], [order]), fields, added, own_paths), 0

        with await self._call.put(
            self._request, compose, model=str(fields["model"] or ""), purpose="compaction"
        ) as answer:
            await begun(answer.headers)
            return await self._outcome_of(answer)

    def _fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of a question: those that the caller's request gives, and those that are added here."""
        asked = self._request.body
        fields: dict[str, Any] = {name: asked[name] for name in _KEPT_FIELDS if asked.get(name) is not None}
        fields["model"] = self._config.model or asked.get("model")
        return fields, {"max_output_tokens": self._config.max_summary_tokens, "store": False, "stream": True}

    async def _outcome_of(self, answer: ModelAnswer) -> tuple[Outcome, str]:
        relay = Relay(_ownership(self._request.body))
        relay.origin = answer.origin
        if not await answer.is_stream(expected=True):
            return relay.complete(await answer.read_json()), ""
        splicer = Splicer(relay, answer.max_event_bytes)
        async for chunk in answer.chunks(relay.patience):
            splicer.feed(chunk)
            if relay.is_over or splicer.failure is not None:
                answer.expect_end()
                break
        else:
            splicer.flush()
        if splicer.failure is not None and relay.outcome is None:
            raise BadGateway("The upstream sent an event that can't be read.") from splicer.failure
        if relay.outcome is not None:
            return relay.outcome, ""
        broken_off = "The upstream ended its stream before the response was complete."
        return relay.fail("server_error", broken_off), CUT


def _read(outcome: Outcome) -> Summary:
    """Return the text of an answer. Raises BadGateway if there is none or if it is not whole."""
    response = outcome.response
    if outcome.status != "completed":
        reason = "it did not fit into compaction.max_summary_tokens" if outcome.status == "incomplete" else ""
        raise BadGateway(f"The model did not finish its summary of the conversation{reason and f': {reason}'}.")
    parts = [part for item in outcome.items if item["type"] == "message" for part in item["content"]]
    text = "\n\n".join(part["text"] for part in parts if part["type"] == "output_text").strip()
    if not text:
        raise BadGateway("The model gave no summary of the conversation.")
    return Summary(text, response["usage"], response["model"])


def _message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _ownership(asked: Mapping[str, Any]) -> Ownership:
    """Return what an answer is completed with that nobody sees."""
    partition = new_partition()
    return Ownership.of(
        {"model": asked.get("model")},
        TurnSource(),
        response_id=ids.new_response_id(partition, stored=False),
        created_at=int(time.time()),
        store=False,
        new_item_id=lambda item_type: ids.new_turn_item_id(item_type, partition, stored=False),
    )
