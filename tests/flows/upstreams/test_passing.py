"""What is passed on goes to the server of its model; lists of models are one; readiness needs one server."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import orjson
import pytest
from openai import NotFoundError

from proxy.config.settings import Secret
from proxy.upstream.models import MODEL_LIST
from tests.flows.talk import post
from tests.flows.upstreams.conftest import StartSeveral
from tests.upstream import CUT, HANG, Reply

CHAT = "/v1/chat/completions"
HEADERS = {"Authorization": "Bearer sk-alice"}
TWO: dict[str, Any] = {
    "first": {"models": ["m"]},
    "second": {"models": ["m", "n"], "api_key": Secret("sk-second")},
    "azure": {"models": ["gpt-5-eu"], "rename": {"gpt-5-eu": "my-deployment"}},
    "rest": {"models": ["*"]},
}


def chat(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


def paths(several: Any) -> dict[str, list[str]]:
    return {name: [one.path_qs for one in server.requests] for name, server in several.servers.items()}


async def test_a_body_goes_to_the_server_of_its_model_as_it_is(start_several: StartSeveral):
    several = await start_several(**TWO)
    body = b'{ "messages":[{"role":"user","content":"hi"}],"n":1.0,  "model":"n" }'
    answer = await post(several.proxy, f"{CHAT}?a=%20b", body, None)
    assert answer.status == 200
    assert paths(several) == {"first": [], "second": [f"{CHAT}?a=%20b"], "azure": [], "rest": []}
    got = several.servers["second"].requests[0]
    assert (got.body, got.headers["Authorization"]) == (body, "Bearer sk-second")


async def test_the_official_client_streams_from_it(start_several: StartSeveral):
    several = await start_several(**TWO)
    stream = await several.proxy.client().chat.completions.create(**chat("n", stream=True))
    assert "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
    assert len(several.servers["second"].requests) == 1


@pytest.mark.parametrize("coding", ["identity", "deflate"])
async def test_a_renamed_model_is_renamed_both_ways(start_several: StartSeveral, coding: str):
    several = await start_several(**TWO)
    told = {"id": "1", "model": "my-deployment", "usage": {"model": "my-deployment"}, "big": 12345678901234567890123}
    reply = Reply.raw(200, "application/json", b'{"id":"1","model":"my-deployment","big":12345678901234567890123}')
    several.servers["azure"].script(reply, path=CHAT)
    body = orjson.dumps(chat("gpt-5-eu"))
    headers = {"Content-Encoding": "deflate"} if coding == "deflate" else {}
    data = zlib.compress(body) if coding == "deflate" else body
    answer = await post(several.proxy, CHAT, data, None, headers=headers)
    assert answer.body == b'{"id":"1","model":"gpt-5-eu","big":12345678901234567890123}'
    assert several.servers["azure"].requests[0].json == chat("my-deployment")
    assert told["model"] != answer.json["model"]


async def test_a_renamed_model_is_renamed_in_every_event(start_several: StartSeveral):
    several = await start_several(**TWO)
    chunk = b'data: {"model":"my-deployment","choices":[{"delta":{"content":"my-deployment"}}]}\n\n'
    pieces = [(chunk * 3)[at : at + 7] for at in range(0, len(chunk) * 3, 7)]
    reply = Reply.raw(200, "text/event-stream", chunks=[b": hello\n\n", *pieces, b"data: [DONE]\n\n", b"data: {"])
    several.servers["azure"].script(reply, path=CHAT)
    answer = await post(several.proxy, CHAT, chat("gpt-5-eu", stream=True), None)
    renamed = chunk.replace(b'"model":"my-deployment"', b'"model":"gpt-5-eu"')
    assert answer.body == b": hello\n\n" + renamed * 3 + b"data: [DONE]\n\n" + b"data: {"
    assert answer.headers["Content-Type"] == "text/event-stream"


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("GET", "/v1/files", None, ""),
        ("DELETE", "/v1/files/f", None, ""),
        ("POST", "/v1/vector_stores", b'{"name":"x"}', "application/json"),
        (
            "POST",
            "/v1/files",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nn\r\n--x--',
            "multipart/form-data",
        ),
        ("POST", CHAT, b'{"model":"n"', "application/json"),
        ("POST", CHAT, b'{"model":7}', "application/json"),
        ("POST", CHAT, b'["model"]', "application/json"),
        ("GET", "/v1/modelsextra", None, ""),
    ],
)
async def test_what_names_no_model_goes_to_the_one_that_takes_the_rest(
    start_several: StartSeveral, method: str, path: str, body: bytes | None, kind: str
):
    several = await start_several(**TWO)
    headers = {**HEADERS, **({"Content-Type": kind} if kind else {})}
    async with several.proxy.http.request(method, several.proxy.url + path, data=body, headers=headers) as answer:
        await answer.read()
    assert paths(several) == {"first": [], "second": [], "azure": [], "rest": [path]}
    assert several.servers["rest"].requests[0].body == (body or b"")


async def test_without_such_a_one_it_goes_to_the_first(start_several: StartSeveral):
    several = await start_several(b={"models": ["m"]}, a={"models": ["n"]})
    await several.proxy.call("GET", "/v1/files")
    assert paths(several) == {"b": ["/v1/files"], "a": []}


async def test_a_model_that_no_server_has_goes_nowhere(start_several: StartSeveral):
    several = await start_several(a={"models": ["m"]}, b={"models": ["n"]})
    answer = await post(several.proxy, CHAT, chat("x"), None)
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert paths(several) == {"a": [], "b": []}


@pytest.mark.parametrize(
    "reply", [*(Reply.json(status, {}) for status in (429, 500, 502, 503, 504)), Reply.raw(200, "a/b", chunks=[CUT])]
)
async def test_another_server_is_asked_where_one_fails(start_several: StartSeveral, reply: Reply):
    several = await start_several(**TWO)
    several.servers["first"].script(reply, path=CHAT)
    answer = await post(several.proxy, CHAT, chat("m"), None)
    assert answer.status == 200
    assert paths(several) == {"first": [CHAT], "second": [CHAT], "azure": [], "rest": []}


async def test_or_can_not_be_reached(start_several: StartSeveral):
    several = await start_several(**{**TWO, "first": {"models": ["m"], "url": "http://127.0.0.1:1/v1"}})
    assert (await post(several.proxy, CHAT, chat("m"), None)).status == 200
    several.servers["second"].script(Reply.json(503, {"error": {"message": "Busy."}}), path=CHAT)
    answer = await post(several.proxy, CHAT, chat("m"), None)
    assert (answer.status, answer.json) == (503, {"error": {"message": "Busy."}})


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_a_refusal_is_the_clients_to_know(start_several: StartSeveral, status: int):
    several = await start_several(**TWO)
    several.servers["first"].script(Reply.json(status, {"error": "no"}), path=CHAT)
    answer = await post(several.proxy, CHAT, chat("m"), None)
    assert (answer.status, answer.json) == (status, {"error": "no"})
    assert len(paths(several)["second"]) == 0


# The list of models.


def listed(*names: str, **fields: Any) -> Reply:
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "them", **fields} for name in names]
    return Reply.json(200, {"object": "list", "data": data})


MODELS = "/v1/models"


async def test_lists_are_merged_filtered_and_renamed_and_each_id_is_told_once(start_several: StartSeveral):
    several = await start_several(
        qwen={"models": ["qwen3-32b"]},
        azure={"models": ["gpt-5-eu", "gpt-4*"], "rename": {"gpt-5-eu": "my-deployment"}},
        openai={"models": ["gpt-*", "*"], "api_key": Secret("sk-openai")},
        silent={"models": ["lonely", "some-*"], "url": "http://127.0.0.1:1/v1"},
    )
    several.servers["qwen"].script(listed("qwen3-32b", "gpt-5", "other", max_model_len=40960), path=MODELS)
    several.servers["azure"].script(listed("my-deployment", "gpt-4o", "gpt-5"), path=MODELS)
    several.servers["openai"].script(listed("gpt-5", "gpt-4o", "o3", "qwen3-32b", "gpt-5-eu"), path=MODELS)
    page = await several.proxy.client().models.list()
    assert [(model.id, model.owned_by) for model in page.data] == [
        ("qwen3-32b", "them"),
        ("gpt-5-eu", "them"),
        ("gpt-4o", "them"),
        ("gpt-5", "them"),
        ("o3", "them"),
        ("lonely", "silent"),
    ]
    assert page.data[0].model_dump()["max_model_len"] == 40960
    asked = several.servers["openai"].requests[0]
    assert asked.headers["Authorization"] == "Bearer sk-openai"
    assert "Authorization" not in several.servers["qwen"].requests[0].headers
    # kept for 30 seconds
    again = await several.proxy.client().models.list()
    assert [model.id for model in again.data] == [model.id for model in page.data]
    assert len(several.servers["openai"].requests) == 1
    lists = several.proxy.app[MODEL_LIST]
    lists._clock = lambda: asyncio.get_running_loop().time() + 31
    await several.proxy.client().models.list()
    assert len(several.servers["openai"].requests) == 2


async def test_one_model_is_told_by_its_name(start_several: StartSeveral):
    several = await start_several(a={"models": ["Qwen/Qwen3-32B"]}, b={"models": ["m"]})
    client = several.proxy.client()
    assert (await client.models.retrieve("Qwen/Qwen3-32B")).owned_by == "a"
    with pytest.raises(NotFoundError) as refused:
        await client.models.retrieve("x")
    assert refused.value.code == "model_not_found"
    async with several.proxy.http.head(f"{several.proxy.url}{MODELS}", headers=HEADERS) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_a_silent_server_is_waited_for_two_seconds_at_most(
    start_several: StartSeveral, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("proxy.upstream.models.MODELS_SECONDS", 0.05)
    several = await start_several(a={"models": ["m"]}, b={"models": ["n*"]})
    several.servers["a"].script(Reply.raw(200, "application/json", chunks=[HANG]), path=MODELS)
    several.servers["b"].script(listed("n1"), path=MODELS)
    assert [model.id for model in (await several.proxy.client().models.list()).data] == ["n1", "m"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply.json(401, {"error": "key"}),
        Reply.redirect("/elsewhere"),
        Reply.raw(200, "text/html", b"<html>"),
        Reply.json(200, []),
        Reply.json(200, {"data": 7}),
        Reply.json(200, {"data": [7, {}, {"id": 7}]}),
    ],
)
async def test_a_list_that_is_none_is_none(start_several: StartSeveral, reply: Reply):
    several = await start_several(a={"models": ["m", "*"]}, b={"models": ["n"]})
    several.servers["a"].script(reply, path=MODELS)
    assert [model.id for model in (await several.proxy.client().models.list()).data] == ["m", "n"]


async def test_what_a_callers_own_key_is_shown_is_for_that_caller(start_several: StartSeveral):
    several = await start_several(a={"models": ["*"], "caller_key": True}, b={"models": ["n"]})
    several.servers["a"].script(listed("for-alice"), listed("for-bob"), path=MODELS)
    for key, model in (("sk-alice", "for-alice"), ("sk-bob", "for-bob"), ("sk-alice", "for-alice")):
        page = await several.proxy.client(key).models.list()
        assert [one.id for one in page.data] == [model, "n"]
    assert [one.headers["Authorization"] for one in several.servers["a"].requests] == [
        "Bearer sk-alice",
        "Bearer sk-bob",
    ]
    assert len(several.servers["b"].requests) == 1


async def test_callers_who_ask_at_once_share_a_request(start_several: StartSeveral):
    several = await start_several(a={"models": ["*"]}, b={"models": ["n"]})
    await asyncio.gather(*(several.proxy.client().models.list() for _ in range(5)))
    assert len(several.servers["a"].requests) == 1


# Readiness.


async def test_one_server_that_can_be_reached_is_enough(start_several: StartSeveral):
    away = "http://127.0.0.1:1/v1"
    several = await start_several(a={"models": ["m"], "url": away}, b={"models": ["n"]})
    status, told = await several.proxy.call("GET", "/readyz")
    assert (status, told["upstream"]) == (200, "ok")
    none = await start_several(a={"models": ["m"], "url": away}, b={"models": ["n"], "url": away})
    status, told = await none.proxy.call("GET", "/readyz")
    assert (status, told["status"], told["upstream"]) == (503, "unavailable", "unreachable")


# What is learnt is learnt of one server.


async def test_what_one_server_lacks_is_known_of_that_one(start_several: StartSeveral):
    several = await start_several(counts={"models": ["m"]}, lacks={"models": ["n"]})
    path = "/v1/responses/input_tokens"
    counted = Reply.json(200, {"object": "response.input_tokens", "input_tokens": 7})
    several.servers["counts"].script(counted, counted, path=path)
    for model, is_told in (("n", False), ("m", True), ("n", False), ("m", True)):
        answer = await post(several.proxy, path, {"model": model, "input": "hi"}, None)
        assert (answer.json["input_tokens"] == 7, "x-branchline-tokens" in answer.headers) == (is_told, not is_told)
    assert (len(several.servers["counts"].requests), len(several.servers["lacks"].requests)) == (2, 1)


async def test_compaction_is_native_where_the_models_servers_are_openais(start_several: StartSeveral):
    several = await start_several(
        ours={"models": ["m"]},
        theirs={"models": ["n"], "provider": "openai"},
    )
    body = {"input": "hi", "context_management": [{"type": "compaction", "compact_threshold": 100_000}]}
    for model in ("m", "n"):
        assert (await post(several.proxy, "/v1/responses", {"model": model, **body}, None)).status == 200
    assert "context_management" not in several.question("ours")
    assert "context_management" in several.question("theirs")
