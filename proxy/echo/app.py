"""The built-in model: a small, complete and stateless model server that repeats what it is told.

    POST /v1/responses         plain and streamed      parrot.py       decides what to say,
    POST /v1/chat/completions  plain and streamed      playback.py       tells it as events
    GET  /v1/models, /v1/models/{id}

    You said: "hello" (I saw 4 earlier items.)

`call NAME WORD` in the last user message makes it call that tool. It needs no key and no network, and it
refuses everything that needs state, as real model servers do.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web

from proxy.echo import completions
from proxy.echo.events import play
from proxy.echo.replies import Answer, Request, answer, seal
from proxy.protocol import ids, sse
from proxy.protocol.errors import ApiError, BadRequest, MethodNotAllowed, NotFound
from storage import new_partition

MODELS = ("echo", "gpt-echo")

#: Largest request body, in bytes; the proxy in front has its own limit.
MAX_BODY_BYTES = 1024 * 1024 * 1024

#: Fields of a Response object that repeat the request, with their values where it says nothing.
ECHOED: dict[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": "echo",
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Shape = TypeVar("_Shape", bound=msgspec.Struct)


def create_echo_app() -> web.Application:
    """Return the model server as an application; start it on a port of your own."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_answer_errors])
    app.on_response_prepare.append(_add_request_id)
    app.add_routes(
        [
            web.post("/v1/responses", _create_response),
            web.post("/v1/chat/completions", _create_chat_completion),
            web.get("/v1/models", _list_models),
            web.get("/v1/models/{id}", _get_model),
        ]
    )
    return app


async def _create_response(request: web.Request) -> web.StreamResponse:
    """`POST /v1/responses`."""
    body, asked = await _read(request, Request)
    response = build_response(body, answer(asked))
    if not asked.stream:
        return _json(response)
    frames = (sse.encode(event["type"], orjson.dumps(event)) for event in play(response))
    return await _stream(request, frames)


async def _create_chat_completion(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`."""
    _, asked = await _read(request, completions.ChatRequest)
    completion = completions.build_completion(asked.model, answer(asked.to_responses()))
    if not asked.stream:
        return _json(completion)
    chunks = completions.play_completion(completion, include_usage=asked.wants_usage())
    frames = [b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks]
    return await _stream(request, [*frames, sse.DONE])


async def _list_models(request: web.Request) -> web.Response:
    """`GET /v1/models`."""
    return _json({"object": "list", "data": [_model(name) for name in MODELS]})


async def _get_model(request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`."""
    name = request.match_info["id"]
    if name not in MODELS:
        raise NotFound(f"The model '{name}' does not exist.", code="model_not_found")
    return _json(_model(name))


def build_response(body: dict[str, Any], said: Answer) -> dict[str, Any]:
    """Return the finished Response object for a request's `body` in the shape of OpenAI's answers."""
    now = int(time.time())
    partition = new_partition()
    return {
        **{name: _echo(body.get(name), default) for name, default in ECHOED.items()},
        "id": ids.new_response_id(partition, stored=True),
        "object": "response",
        "created_at": now,
        "completed_at": None if said.is_cut else now,
        "status": "incomplete" if said.is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if said.is_cut else None,
        "error": None,
        "output": _output(said, partition, seals="reasoning.encrypted_content" in (body.get("include") or [])),
        "service_tier": "default",
        "tools": [_echo_tool(tool) for tool in body.get("tools") or []],
        "usage": _usage(said),
    }


def _output(said: Answer, partition: str, *, seals: bool) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = []
    if said.thought:
        item_id = ids.new_turn_item_id("reasoning", partition, stored=True)
        summary = [{"type": "summary_text", "text": said.thought}]
        sealed = {"encrypted_content": seal(item_id)} if seals else {}
        output.append({"id": item_id, "type": "reasoning", "summary": summary, **sealed})
    output.extend(
        {
            "id": ids.new_turn_item_id("function_call", partition, stored=True),
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{secrets.token_urlsafe(18)}",
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in said.calls
    )
    if not said.calls:
        part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
        output.append(
            {
                "id": ids.new_turn_item_id("message", partition, stored=True),
                "type": "message",
                "status": "incomplete" if said.is_cut else "completed",
                "role": "assistant",
                "content": [part],
            }
        )
    return output


def _usage(said: Answer) -> dict[str, Any]:
    return {
        "input_tokens": said.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": said.output_tokens,
        "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
        "total_tokens": said.input_tokens + said.output_tokens,
    }


def _echo(given: Any, default: Any) -> Any:
    if isinstance(given, dict) and isinstance(default, dict):
        return {**default, **given}
    return default if given is None else given


def _echo_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": True, **tool}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1767225600, "owned_by": "branchline"}


async def _read(request: web.Request, shape: type[_Shape]) -> tuple[dict[str, Any], _Shape]:
    """Return the body as it came and the fields of it that the model reads. Raises BadRequest."""
    try:
        body = orjson.loads(await request.read())
        return body, msgspec.convert(body, shape)
    except orjson.JSONDecodeError as exc:
        raise BadRequest("We could not parse the JSON body of your request.") from exc
    except msgspec.ValidationError as exc:
        raise BadRequest(f"Invalid request body: {exc}.") from exc


def _json(body: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


async def _stream(request: web.Request, frames: Iterable[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.headers["Cache-Control"] = "no-cache"
    await response.prepare(request)
    for frame in frames:
        await response.write(frame)
    await response.write_eof()
    return response


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        error: ApiError = NotFound(f"Invalid URL ({request.method} {request.path})")
    except web.HTTPMethodNotAllowed:
        error = MethodNotAllowed(f"Not allowed ({request.method} {request.path})")
    except ApiError as exc:
        error = exc
    return _json({"error": error.to_dict()}, status=error.status)


async def _add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
