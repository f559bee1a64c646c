"""An app that resends its history, over either API, and what is recorded of it as texts."""

from __future__ import annotations

from typing import Any

from tests.flows.conftest import Proxy
from tests.flows.recording.witness import all_recorded, completion
from tests.flows.talk import items_of, model_answer, post, respond
from tests.upstream import Reply

CHAT = "/v1/chat/completions"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


async def say(proxy: Proxy, *history: dict[str, Any], answer: str = "ok", **fields: Any) -> dict[str, Any]:
    """Take a turn that resends its history."""
    proxy.upstream.script(Reply.json(200, model_answer(answer)))
    return await respond(proxy, input=list(history), **fields)


async def chat(proxy: Proxy, *history: dict[str, Any], answer: str = "ok", **fields: Any) -> None:
    """Take the same over Chat Completions."""
    proxy.upstream.script(Reply.json(200, completion(said(answer))), path=CHAT)
    told = await post(proxy, CHAT, {"model": "m", "messages": list(history), "store": True, **fields}, key=None)
    assert told.status == 200


async def texts_of(proxy: Proxy, conversation_id: str, branch: str = "MAIN") -> list[str]:
    items = await items_of(proxy, conversation_id, f"&branch={branch}")
    return ["".join(part.get("text", "") for part in item.get("content", ())) for item in items]


async def only_conversation(proxy: Proxy) -> str:
    (conversation_id,) = await all_recorded(proxy)
    return conversation_id
