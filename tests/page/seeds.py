"""Conversations with everything in them that a page must stand."""

from __future__ import annotations

from typing import Any

from tests.flows.conftest import Proxy
from tests.flows.talk import new_conversation, respond
from tests.page.talk import talk

#: What strangers write.
HOSTILE = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><svg onload='window.ran = 1'>",
    "![p](https://evil.example/p.png) [a](javascript:window.ran=1) [bank.example](https://evil.example/in)",
    "<https://evil.example/auto> <a href='https://evil.example' onclick='window.ran = 1'>x</a>",
    "safe \u202egnp.exe\u2066 \u0007 \U000e0041",
    "# one\n\n### three\n\n```html\n<b onclick='window.ran = 1'>x</b>\n```\n\n| a | b |\n|:-|-:|\n| `1` | **2** |",
)

_CALL: dict[str, Any] = {
    "type": "function_call",
    "name": "<b>run",
    "call_id": "call_1",
    "arguments": '{"q":"</script>"}',
}
_ITEMS = (
    _CALL,
    {"type": "function_call_output", "call_id": "call_1", "output": "<script>window.ran = 1</script>" + "y" * 5000},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "<img src=x onerror='window.ran = 1'>"}]},
    {"type": "a_type_of_tomorrow", "anything": {"<b>": ["</script><script>window.ran = 1</script>"]}},
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": "https://evil.example/pixel.png"},
            {"type": "input_image", "image_url": "data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+"},
            {"type": "input_image", "image_url": "data:image/png;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+"},
            {"type": "input_file", "filename": "<script>.html", "file_data": "data:text/html;base64,PGI+"},
        ],
    },
)


async def hostile(proxy: Proxy) -> str:
    """A conversation full of what strangers write; return its id."""
    conversation = await talk(proxy, *HOSTILE)
    items = {"items": list(_ITEMS)}
    status, answer = await proxy.call("POST", f"/v1/conversations/{conversation}/items", items)
    assert status == 200, answer
    title = {"title": "<script>window.ran = 1</script>\u202e"}
    await proxy.call("POST", f"/v1/conversations/{conversation}", title)
    return conversation


async def branched(proxy: Proxy) -> str:
    """A conversation with three branches and an earlier version; return its id."""
    conversation = await talk(proxy, "one", "two", "three", reasoning={"effort": "low"})
    _, page = await proxy.call("GET", f"/v1/conversations/{conversation}/items?order=asc")
    users = [item["id"] for item in page["data"] if item.get("role") == "user"]
    await proxy.call(
        "POST", f"/v1/conversations/{conversation}/items/{users[1]}/edit", {"content": "two anew", "regenerate": True}
    )
    await respond(proxy, conversation={"id": conversation, "fork_from": users[0], "branch": "draft"}, input="a draft")
    await proxy.call("POST", f"/v1/conversations/{conversation}/branches", {"name": "empty", "parent_branch": "draft"})
    return conversation


async def alone(proxy: Proxy) -> str:
    """A response outside of conversations; return its id."""
    first = await respond(proxy, input="outside", instructions="Be brief.", metadata={"for": "a test"})
    return str(first["id"])


async def empty(proxy: Proxy) -> str:
    """A conversation with nothing in it; return its id."""
    return await new_conversation(proxy)
