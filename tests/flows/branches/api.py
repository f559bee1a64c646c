"""Calls of the branch API, and what a test compares branches by."""

from __future__ import annotations

from typing import Any

from tests.flows.conftest import Proxy


def error_of(answer: Any) -> tuple[str | None, str | None]:
    """The parameter and the code of an error."""
    return answer["error"]["param"], answer["error"]["code"]


async def fork(proxy: Proxy, path: str, name: str, **body: Any) -> dict[str, Any]:
    """Create a branch of the conversation at this path."""
    status, branch = await proxy.call("POST", f"{path}/branches", {"name": name, **body})
    assert status == 201, branch
    return dict(branch)


async def items_on(proxy: Proxy, path: str, branch: str = "", **query: str) -> list[dict[str, Any]]:
    """The items of a branch, oldest first (at most 100); of the active one unless another is named."""
    params = {"order": "asc", "limit": "100", "branch": branch, **query}
    status, page = await proxy.call("GET", f"{path}/items", params=params)
    assert status == 200, page
    return list(page["data"])


async def text_on(proxy: Proxy, path: str, branch: str = "", **query: str) -> str:
    """What the messages of a branch say, joined."""
    return "".join(item["content"][0]["text"] for item in await items_on(proxy, path, branch, **query))


async def names(proxy: Proxy, path: str) -> list[str]:
    """The names of a conversation's branches."""
    return [branch["name"] for branch in (await proxy.call("GET", f"{path}/branches"))[1]["data"]]
