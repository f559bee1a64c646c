"""A branch that is deleted over HTTP: soon nothing of it is left in Redis, and nothing else is touched."""

from __future__ import annotations

from proxy.runtime.reclaimer import RECLAIMER
from tests.flows.conftest import Proxy
from tests.items import user
from tests.storage.inspection import keys_that_hold


async def test_a_deleted_branch_leaves_redis(proxy: Proxy):
    _, made = await proxy.call("POST", "/v1/conversations", {"items": [user("shared")]})
    path = f"/v1/conversations/{made['id']}"
    status, _ = await proxy.call("POST", f"{path}/branches", {"name": "draft"})
    assert status == 201
    status, added = await proxy.call("POST", f"{path}/items?branch=draft", {"items": [user("mine alone")]})
    assert status == 200
    item_id = added["data"][0]["id"].encode()
    assert len(await keys_that_hold(proxy.redis, item_id)) == 2
    status, _ = await proxy.call("DELETE", f"{path}/branches/draft")
    assert status == 204
    await proxy.app[RECLAIMER].wait()
    assert await keys_that_hold(proxy.redis, item_id) == await keys_that_hold(proxy.redis, b"mine alone") == []
    _, items = await proxy.call("GET", f"{path}/items")
    assert [item["content"][0]["text"] for item in items["data"]] == ["shared"]
