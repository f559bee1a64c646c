"""Conversations to look at."""

from __future__ import annotations

from typing import Any

from tests.flows.conftest import Proxy
from tests.flows.talk import items_of, new_conversation, respond


async def talk(proxy: Proxy, *texts: str, **fields: Any) -> str:
    """Have a conversation with the echo model; return its id."""
    conversation_id = await new_conversation(proxy)
    for text in texts:
        await respond(proxy, conversation=conversation_id, input=text, **fields)
    return conversation_id


async def ids_of(proxy: Proxy, conversation_id: str, query: str = "") -> list[str]:
    """The ids of a conversation's items, oldest first."""
    return [item["id"] for item in await items_of(proxy, conversation_id, query)]


async def texts_of(proxy: Proxy, conversation_id: str, query: str = "") -> list[str]:
    """What a conversation's messages say."""
    items = await items_of(proxy, conversation_id, query)
    return [item["content"][0]["text"] for item in items if item["type"] == "message"]


async def branches_of(proxy: Proxy, conversation_id: str) -> dict[str, dict[str, Any]]:
    """A conversation's branches by name."""
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation_id}/branches")
    return {one["name"]: one for one in page["data"]}
