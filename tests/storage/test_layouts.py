"""Stores that earlier versions wrote, as the store itself sees them; `tests/flows/test_layouts.py` asks the server."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.layouts import Layout
from tests.layouts.snapshot import Snapshot
from tests.storage.builders import store_on

PREFIX = "branchline"
DAY = 86_400.0
#: Time that loading and reading may take together, in ms.
SLACK_MS = 20_000


@pytest.mark.parametrize("later_seconds", [0.0, 60.0, DAY + 60.0, 31 * DAY])
async def test_it_is_sound_whenever_it_is_opened(redis: Redis, layout: Layout, later_seconds: float):
    await layout.snapshot.load(redis, later_seconds=later_seconds)
    async with store_on(redis, prefix=PREFIX) as store:
        report = await store.auditor.audit()
    assert report.complaints == []
    assert report.conversations > 8
    assert report.items > 150


@pytest.mark.parametrize("later_seconds", [0.0, 31 * DAY])
async def test_what_nobody_needs_is_freed_and_nothing_else(redis: Redis, layout: Layout, later_seconds: float):
    await layout.snapshot.load(redis, later_seconds=later_seconds)
    async with store_on(redis, prefix=PREFIX) as store:
        before = await store.auditor.audit()
        await store.sweeper.sweep_all()
        after = await store.auditor.audit()
    assert (after.complaints, after.garbage.total()) == ([], 0)
    assert after.items == before.items - before.garbage["items"]
    assert (before.garbage.total() > 0) is (later_seconds > 0)


async def test_the_server_holds_what_the_snapshot_says(redis: Redis, layout: Layout):
    written = await layout.snapshot.load(redis)
    read = await Snapshot.take(redis, written.origin)
    assert len(written.keys) == len(layout.snapshot.keys) > 200
    assert [key["key"] for key in read.keys] == [key["key"] for key in written.keys]
    for was, now in zip(written.keys, read.keys, strict=True):
        assert without_times(now) == without_times(was)
        assert (now["ttl_ms"] is None) == (was["ttl_ms"] is None)
        assert 0 <= (was["ttl_ms"] or 0) - (now["ttl_ms"] or 0) < SLACK_MS


def test_a_snapshot_is_the_same_as_text(layout: Layout):
    assert Snapshot.parse(layout.snapshot.text()) == layout.snapshot


def test_time_moves_what_the_store_compares_with_its_clock():
    keys = [
        hash_key("s:{1}:partition", {"owner": "7", "reach:3": "1000:12"}, ttl_ms=None),
        hash_key("s:{1}:response:resp_1", {"accepted_at": "900", "lease_until": "0", "created_at": "1"}, ttl_ms=5000),
        hash_key("s:owner:{o}:idempotency:00", {"lease": "1100", "token": "1"}, ttl_ms=60),
    ]
    ten_years_ms = 10 * 365 * 86_400_000
    now, later = (Snapshot(1000, "o", keys).at(1000 + ten_years_ms, later_seconds=age) for age in (0.0, 0.1))
    assert [key["value"] for key in now.keys] == [
        {"owner": "7", "reach:3": f"{1000 + ten_years_ms}:12"},
        {"accepted_at": f"{900 + ten_years_ms}", "lease_until": "0", "created_at": "1"},
        {"lease": f"{1100 + ten_years_ms}", "token": "1"},
    ]
    assert [key["ttl_ms"] for key in now.keys] == [None, 5000, 60]
    assert [key["ttl_ms"] for key in later.keys] == [None, 4900]
    assert later.keys[0]["value"]["reach:3"] == f"{900 + ten_years_ms}:12"


def hash_key(name: str, fields: dict[str, str], *, ttl_ms: int | None) -> dict[str, Any]:
    return {"key": name, "type": "hash", "ttl_ms": ttl_ms, "value": fields}


def without_times(key: dict[str, Any]) -> dict[str, Any]:
    """Return a key without what the server's clock changes."""
    groups = key["value"]["groups"] if key["type"] == "stream" else ()
    untimed = [{**group, "pending": [[*one[:2], one[3]] for one in group["pending"]]} for group in groups]
    value = {**key["value"], "groups": untimed} if key["type"] == "stream" else key["value"]
    return {**key, "value": value, "ttl_ms": None}
