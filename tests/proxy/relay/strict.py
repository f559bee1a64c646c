"""What the strictest OpenAI client does with a stream or a Response: refuse it, or let the test look at it."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import orjson
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent

from proxy.protocol.sse import DONE, Event, SseDecoder, joined
from proxy.relay import Outcome, Ownership, Relay, Splicer
from tests.proxy.relay.invariants import accept_told

SAMPLES = Path(__file__).parents[2] / "upstream_samples"

EVENTS = {
    get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseStreamEvent)[0])
}
ITEMS = {get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseOutputItem)[0])}

#: Open Responses' ResponseResource requires these keys …
REQUIRED = frozenset(
    [
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "incomplete_details",
        "model",
        "previous_response_id",
        "instructions",
        "output",
        "error",
        "tools",
        "tool_choice",
        "truncation",
        "parallel_tool_calls",
        "text",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "temperature",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "store",
        "background",
        "service_tier",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
    ]
)
#: … and lets only these be null.
NULLABLE = frozenset(
    [
        "completed_at",
        "incomplete_details",
        "previous_response_id",
        "instructions",
        "error",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
    ]
)


def ownership(**changes: Any) -> Ownership:
    """Return what Branchline decides in a turn of the tests; item ids count up: `message-0`, `reasoning-1`."""
    numbers = itertools.count()
    settings: dict[str, Any] = {
        "response_id": "resp_ours",
        "previous_response_id": None,
        "conversation_id": None,
        "store": True,
        "new_item_id": lambda kind: f"{kind}-{next(numbers)}",
        "request": {"model": "asked", "input": "hi"},
        "show_encrypted": False,
        "created_at": 1_700_000_000,
    }
    return Ownership(**{**settings, **changes})


def sse_event(body: Any) -> Event:
    return Event(None, orjson.dumps(body))


def events_of(frames: bytes) -> list[dict[str, Any]]:
    """Return the events of whole frames, after a check of their outer form."""
    assert frames == b"" or frames.endswith(b"\n\n")
    assert b"\r" not in frames
    events = []
    for name, data in SseDecoder(1 << 24).feed(frames):
        if data == b"[DONE]":
            continue
        body = orjson.loads(data)
        assert name == body["type"]
        events.append(body)
    return events


def run(bodies: Iterable[Any], relay: Relay | None = None) -> tuple[list[dict[str, Any]], Outcome]:
    """Feed `bodies`, close the stream, and return the client's events and the outcome, both found valid.

    Without a relay, two are made: one parses every event, one remembers the shapes of pieces; both must say the same.
    """
    stream = [b"data: %b\n\n" % orjson.dumps(body) for body in bodies]
    if relay is not None:
        return finish(relay, fed(relay, stream))
    parsing, remembering = Relay(ownership()), Relay(ownership())
    told = fed(parsing, stream, remember_after=0)
    assert comparable(fed(remembering, stream)) == comparable(told)
    ended = finish(parsing, told)
    accept_alike(parsing, remembering)
    return ended


def fed(relay: Relay, chunks: Iterable[bytes], *, remember_after: int = 1) -> bytes:
    """Return what a client is told for the bytes of a stream. Raises MalformedEvent."""
    splicer = Splicer(relay, 1 << 20, remember_after=remember_after)
    told = b"".join([joined(splicer.feed(chunk)) for chunk in chunks])
    if splicer.failure is not None:
        raise splicer.failure
    return told


def accept_alike(one: Relay, other: Relay) -> None:
    """Fail unless two relays of one stream have come to the same."""
    assert (one.pings, one.skipped, one.is_over) == (other.pings, other.skipped, other.is_over)
    ends = [relay.outcome or relay.fail("server_error", "The upstream broke off.") for relay in (one, other)]
    assert comparable(orjson.dumps(ends[0].items)) == comparable(orjson.dumps(ends[1].items))
    assert comparable(orjson.dumps(ends[0].response)) == comparable(orjson.dumps(ends[1].response))


def comparable(data: bytes) -> bytes:
    """Return what was told without what differs each time: the call ids that are made up, and the time."""
    names: dict[bytes, bytes] = {}
    data = re.sub(rb"call_[0-9A-Za-z]{24}", lambda found: names.setdefault(found[0], b"call %d" % len(names)), data)
    return re.sub(rb'"completed_at":[0-9]+', b"", data)


def finish(relay: Relay, frames: bytes) -> tuple[list[dict[str, Any]], Outcome]:
    outcome = relay.outcome or relay.fail("server_error", "The upstream broke off.")
    end = joined(relay.closing(outcome))
    assert end.endswith(DONE)
    events = events_of(frames + end)
    accept_stream(events)
    accept_response(outcome.response)
    assert [item["id"] for item in outcome.items] == [item["id"] for item in outcome.response["output"]]
    return events, outcome


def accept_stream(events: list[dict[str, Any]]) -> None:
    """Fail unless the events are complete, numbered, and taken by the state machine of openai's stream helper."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    accept_told(events)
    state: ResponseStreamState[Any] = ResponseStreamState(text_format=omit, input_tools=omit)
    for event in events:
        model = EVENTS.get(event["type"])
        if model is None:
            continue
        if "response" in model.model_fields:
            accept_response(event["response"])
        elif "item" in model.model_fields:
            accept_item(event["item"], announced=event["type"].endswith(".added"))
        else:
            model.model_validate(event)
        with warnings.catch_warnings():
            # openai's client itself warns about item types that it does not know.
            warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
            state.handle_event(model.construct(**event))


def accept_item(item: dict[str, Any], *, announced: bool = False) -> None:
    """Fail unless openai's model and Open Responses' schema take the item. Types that they don't know pass.

    announced: it may lack what OpenAI itself leaves out of an announcement.
    """
    model = ITEMS.get(item["type"])
    if announced and item["type"] == "web_search_call":
        item = {"action": {"type": "search", "query": ""}, **item}
    if model is not None:
        model.model_validate(item)
    if item["type"] == "reasoning":
        assert None not in (item.get("content", ()), item.get("encrypted_content", ""))


def accept_response(response: dict[str, Any]) -> None:
    """Fail unless openai's model and Open Responses' schema take the Response object."""
    Response.model_validate({**response, "output": []})
    for item in response["output"]:
        accept_item(item)
    assert response.keys() >= REQUIRED
    assert {key for key in REQUIRED - NULLABLE if response[key] is None} == set()
    assert type(response["created_at"]) is int
    assert response["completed_at"] is None or type(response["completed_at"]) is int
    assert response["id"] == "resp_ours"


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def only(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the one event of type `response.<kind>`."""
    (event,) = (event for event in events if event["type"] == f"response.{kind}")
    return event


def sample(name: str) -> tuple[dict[str, Any], int, bytes]:
    """Return a recording: the request, the status, the body of the answer."""
    request, _, answer = (SAMPLES / f"{name}.txt").read_bytes().partition(b"\n### response ")
    head, _, body = answer.partition(b"\n")
    return orjson.loads(request.removeprefix(b"### request\n")), int(head.split()[0]), body
