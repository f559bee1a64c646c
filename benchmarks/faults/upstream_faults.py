"""What can be wrong with a model server, by the name of the model that is asked for."""

from __future__ import annotations

import asyncio

import orjson

from benchmarks.faults.model import Answer, Call, cut_off, fine

#: Of an answer that is too large; of one that never ends, so often.
MEBIBYTE = 1024 * 1024
LARGE_BYTES = 100 * MEBIBYTE
ENDLESS_BYTES = 128 * 1024
#: Written before a model's name: it is wrong only the first time that a question is asked.
ONCE = "once-"


async def resets_before_headers(call: Call) -> None:
    """Reset the connection instead of an answer."""
    cut_off(call)


async def resets_mid_stream(call: Call) -> None:
    """Reset the connection in the middle of the answer, streamed or not."""
    await begin(call)
    await asyncio.sleep(0.05)
    cut_off(call)


async def stalls(call: Call) -> None:
    """Begin, and say nothing more."""
    await begin(call)
    await asyncio.Event().wait()


async def garbage(call: Call) -> None:
    """Answer bytes that are nothing."""
    call.send(200, "text/event-stream" if call.streams else "application/json", b"\x00\xff\xfe}{garbage\r\n\r\n" * 20)


async def too_many(call: Call) -> None:
    """Refuse for a while."""
    error = {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    call.send(429, "application/json", orjson.dumps({"error": error}), "Retry-After: 1\r\n")


async def html(call: Call) -> None:
    """Answer as the balancer in front of a model server does."""
    call.send(500, "text/html", b"<html><body><h1>500 Internal Server Error</h1></body></html>")


async def error_under_200(call: Call) -> None:
    """Answer an error as if it were none."""
    error = {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": "server_error"}
    if not call.streams:
        call.send(200, "application/json", orjson.dumps({"error": error}))
        return
    call.begin()
    await call.event("error", sequence_number=0, **error)
    await call.piece(b"")


async def never_ends(call: Call) -> None:
    """Go on for ever."""
    await begin(call)
    while True:
        await (call.delta("x" * ENDLESS_BYTES) if call.streams else call.piece(b" " * ENDLESS_BYTES))
        await asyncio.sleep(0.02)


async def no_terminal_event(call: Call) -> None:
    """End the stream after the text; of an answer that is not streamed, the end is missing."""
    await begin(call)
    await call.piece(b"")


async def large(call: Call) -> None:
    """Say a hundred megabytes."""
    await begin(call)
    for _ in range(LARGE_BYTES // MEBIBYTE):
        await (call.delta("x" * MEBIBYTE) if call.streams else call.piece(b" " * MEBIBYTE))
    await call.end(call.answer())


async def begin(call: Call) -> None:
    """Say the first part of an answer: of a stream up to some text, else half of the body."""
    response = call.answer()
    if call.streams:
        await call.head(response)
        await call.delta(response["output"][0]["content"][0]["text"])
    else:
        call.begin("application/json")
        await call.piece(orjson.dumps(response)[:-40])


#: By the words of the table; `refuses` is a model server that is not there.
REFUSES = "refuses"
UPSTREAMS: dict[str, Answer] = {
    "fine": fine,
    "resets before headers": resets_before_headers,
    "resets mid-stream": resets_mid_stream,
    "stalls": stalls,
    "garbage": garbage,
    "429": too_many,
    "HTML 500": html,
    "200 with an error": error_under_200,
    "never ends": never_ends,
    "no terminal event": no_terminal_event,
    "100 MB": large,
}


def model_name(upstream: str, *, once: bool) -> str:
    """Return the name of the model that answers so."""
    return (ONCE if once else "") + upstream.replace(" ", "-")


def by_name() -> dict[str, Answer]:
    """Return how each model answers, for `running_model`."""
    asked: dict[str, set[str]] = {}

    def only_once(name: str, answer: Answer) -> Answer:
        async def answer_once(call: Call) -> None:
            known = asked.setdefault(name, set())
            first = call.key not in known
            known.add(call.key)
            await (answer if first else fine)(call)

        return answer_once

    names: dict[str, Answer] = {}
    for upstream, answer in UPSTREAMS.items():
        names[model_name(upstream, once=False)] = answer
        names[model_name(upstream, once=True)] = only_once(upstream, answer)
    return names
