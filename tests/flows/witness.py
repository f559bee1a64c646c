"""A client that takes nothing on trust: reads streams from the wire and fails unless each byte is as promised.

async with Reading(proxy, {"input": "hi"}) as reading:
    response = await reading.end()     # the terminal event is in; the body has not ended yet
response["output"], reading.events     # numbered, valid to openai's models, frames of the right form
"""

from __future__ import annotations

from typing import Any, Self

import orjson
from openai.types.responses import Response

from storage import partition_of
from tests.flows.conftest import Proxy
from tests.proxy.relay.strict import EVENTS, NULLABLE, REQUIRED, accept_item

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
CALL_OUTPUTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}


class Reading:
    """One streamed turn, read frame by frame and checked on the way."""

    def __init__(self, proxy: Proxy, body: dict[str, Any]) -> None:
        self._proxy, self._body = proxy, {"model": "echo", "stream": True, **body}
        self.events: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        headers = {"Authorization": "Bearer sk-alice"}
        self._answer = await self._proxy.http.post(f"{self._proxy.url}/v1/responses", json=self._body, headers=headers)
        assert self._answer.status == 200, await self._answer.text()
        assert self._answer.content_type == "text/event-stream"
        assert self._answer.headers["x-request-id"].startswith("req_")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if exc_info[0] is None:
            assert await self._answer.content.read() == b"data: [DONE]\n\n"
        self._answer.close()

    async def end(self) -> dict[str, Any]:
        """Read up to the terminal event, and not a byte further; return its Response."""
        while not self.events or self.events[-1]["type"] not in TERMINAL:
            self.events.append(await self._frame())
        accept_events(self.events)
        response: dict[str, Any] = self.events[-1]["response"]
        return response

    async def _frame(self) -> dict[str, Any]:
        name, data, blank = [await self._answer.content.readline() for _ in range(3)]
        assert (name[:7], data[:6], blank) == (b"event: ", b"data: ", b"\n")
        event: dict[str, Any] = orjson.loads(data[6:])
        assert name == b"event: %b\n" % event["type"].encode()
        return event


def accept_events(events: list[dict[str, Any]]) -> None:
    """Fail unless the events are gapless, valid to openai's models, and of one Response with one set of item ids."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    final = events[-1]["response"]
    for event in events:
        model = EVENTS.get(event["type"])
        if model is not None:
            model.model_validate(event)
        if "response" in event:
            accept_response(event["response"])
            assert event["response"]["id"] == final["id"]
            for owned in ("conversation", "previous_response_id", "store", "background", "created_at"):
                assert event["response"].get(owned) == final.get(owned)
        if "item" in event:
            accept_item(event["item"])
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    spoken_of = {event["item_id"] for event in events if "item_id" in event and event["type"] in EVENTS}
    assert sorted(added) == sorted(item["id"] for item in done) == sorted(item["id"] for item in final["output"])
    assert spoken_of <= set(added)
    if events[-1]["type"] == "response.completed":
        assert {item["id"]: item for item in done} == {item["id"]: item for item in final["output"]}


def accept_response(response: dict[str, Any]) -> None:
    """Fail unless openai's model and Open Responses' schema take the Response object, and its ids are ours."""
    Response.model_validate(response)
    assert response.keys() >= REQUIRED
    assert {key for key in REQUIRED - NULLABLE if response[key] is None} == set()
    assert {type(response[key]) for key in ("created_at", "completed_at")} <= {int, type(None)}
    partition = partition_of(response["id"])
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    for item in response["output"]:
        accept_item(item)
        assert partition_of(item["id"]) == partition
        assert len(item["id"].partition("_")[2]) == 50


def answered(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the input of a turn that follows on `output`: outputs for its calls, then a message."""
    outputs: list[dict[str, Any]] = [
        {"type": CALL_OUTPUTS[item["type"]], "call_id": item["call_id"], "output": "42"}
        for item in output
        if item["type"] in CALL_OUTPUTS
    ]
    return [*outputs, {"role": "user", "content": "go on"}]


async def accept_stored(proxy: Proxy, response: dict[str, Any]) -> None:
    """Fail unless the response can be read back as it was delivered."""
    path = f"/v1/responses/{response['id']}"
    shown = "?include[]=reasoning.encrypted_content"
    sealed = any(item.get("encrypted_content") for item in response["output"])
    assert await proxy.call("GET", path + (shown if sealed else "")) == (200, response)


async def accept_follow_up(proxy: Proxy, response: dict[str, Any], before: int = 1) -> dict[str, Any]:
    """Go on from `response` and fail unless the model gets all of it; return the upstream's request.

    before: items of the history and input that `response` was made from.
    """
    source: dict[str, Any] = (
        {"conversation": response["conversation"]}
        if "conversation" in response
        else {"previous_response_id": response["id"]}
    )
    items = answered(response["output"])
    status, answer = await proxy.call("POST", "/v1/responses", {"model": "echo", "input": items, **source})
    assert status == 200, answer
    request: dict[str, Any] = proxy.upstream.requests[-1].json
    assert len(request["input"]) == before + len(response["output"]) + len(items)
    seen = request["input"][before : before + len(response["output"])]
    assert [item["type"] for item in seen] == [item["type"] for item in response["output"]]
    for got, told in zip(seen, response["output"], strict=True):
        # sealed reasoning goes without its id: OpenAI binds it to the one that it gave
        assert got.get("id", told["id"]) == told["id"]
        assert [got.get(key) for key in ("content", "arguments", "summary")] == [
            told.get(key) for key in ("content", "arguments", "summary")
        ]
    return request
