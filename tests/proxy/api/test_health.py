from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from yarl import URL

from proxy.api import health
from proxy.app import create_app
from proxy.config.settings import AuthConfig, Config, RedisConfig, Secret, UpstreamConfig
from proxy.http.keys import STORE
from proxy.protocol.errors import GatewayTimeout
from proxy.runtime.tasks import TASKS, TaskRecord, Tasks
from proxy.upstream.choice import UPSTREAMS
from storage import Reason, Unavailable
from tests.proxy.conftest import Serve, ServeProxy
from tests.upstream import ScriptedUpstream


class Dependency:
    """Something to look at: counts the calls and does what it is told."""

    def __init__(self, fault: Exception | None = None, gate: asyncio.Event | None = None) -> None:
        self.name = "upstream"
        self.pings = 0
        self.fault = fault
        self.gate = gate

    async def ping(self) -> None:
        self.pings += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault

    @property
    def condition(self) -> Dependency:
        return self

    async def look(self) -> None:
        await self.ping()


@pytest.fixture
def ready(serve: Serve):
    """Serve the health routes over two dependencies; gives `/readyz`."""

    async def start(store: Dependency, upstream: Dependency) -> URL:
        app = web.Application()
        app[health.READINESS] = health.Readiness()
        app[TASKS] = Tasks()
        app[STORE], app[UPSTREAMS] = store, [upstream]  # type: ignore[misc]
        app.add_routes(health.ROUTES)
        return await serve(app) / "readyz"

    return start


async def test_healthz_answers_without_store_upstream_and_credentials(serve_proxy: ServeProxy, client):
    keys = AuthConfig(mode="api_keys", api_keys={"me": "0" * 64})
    proxy = await serve_proxy("http://127.0.0.1:1/v1", auth=keys)
    async with client.get(proxy / "healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        assert answer.headers["Cache-Control"] == "no-store"


async def test_readyz_names_what_is_missing_and_no_addresses(serve_proxy: ServeProxy, client, upstream, caplog):
    proxy = await serve_proxy(upstream.url, redis=RedisConfig(url=Secret("redis://me:secret@127.0.0.1:1")))
    async with client.get(proxy / "readyz") as answer:
        assert answer.status == 503
        told = await answer.json()
        assert (told["status"], told["store"], told["upstream"]) == ("unavailable", "unreachable", "ok")
    assert "secret" not in caplog.text


async def test_readyz_is_ok_when_both_can_be_reached(serve: Serve, client, upstream: ScriptedUpstream, valkey_url):
    config = Config(upstream=UpstreamConfig(url=upstream.url), redis=RedisConfig(url=Secret(valkey_url)))
    async with client.get(await serve(create_app(config)) / "readyz") as answer:
        assert answer.status == 200
        assert await answer.json() == {"status": "ok", "store": "ok", "upstream": "ok", "tasks": "ok"}


async def test_readyz_names_an_upstream_that_fails(ready, client):
    async with client.get(await ready(Dependency(), Dependency(GatewayTimeout("secret")))) as answer:
        assert answer.status == 503
        assert await answer.json() == {
            "status": "unavailable",
            "store": "ok",
            "upstream": "unreachable",
            "tasks": "ok",
        }


async def test_a_check_that_hangs_is_given_up(ready, client, monkeypatch):
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    async with client.get(await ready(Dependency(gate=asyncio.Event()), Dependency())) as answer:
        assert answer.status == 503
        assert (await answer.json())["store"] == "no answer within 0.05 s"


async def test_both_checks_run_at_the_same_time(ready, client):
    gate = asyncio.Event()

    class Opens(Dependency):
        async def ping(self) -> None:
            gate.set()

    async with client.get(await ready(Dependency(gate=gate), Opens())) as answer:
        assert answer.status == 200


async def test_probes_share_one_result_for_a_while(ready, client, monkeypatch):
    gate = asyncio.Event()
    store = Dependency(gate=gate)
    url = await ready(store, Dependency())

    async def probe() -> int:
        async with client.get(url) as answer:
            return int(answer.status)

    probes = [asyncio.create_task(probe()) for _ in range(5)]
    gate.set()
    assert await asyncio.gather(*probes) == [200] * 5
    assert store.pings == 1

    store.fault = OSError()
    assert await probe() == 200
    monkeypatch.setattr(health, "CACHE_SECONDS", 0.0)
    assert await probe() == 503
    assert store.pings == 2


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.AWAY, "unreachable"),
        (Reason.LOADING, "loading"),
        (Reason.REPLICAS, "too few replicas"),
        (Reason.READ_ONLY, "read-only"),
        (Reason.FULL, "full"),
        (Reason.NO_PERMISSION, "permission denied"),
        (Reason.BUSY, "busy"),
        (Reason.UNKNOWN, "failing"),
    ],
)
async def test_readyz_and_the_log_say_why_the_store_takes_no_writes(ready, client, caplog, reason: Reason, told: str):
    url = await ready(Dependency(Unavailable("CODE", reason)), Dependency())
    async with client.get(url) as answer:
        assert (answer.status, (await answer.json())["store"]) == (503, told)
    assert f"store is not ready: it {reason.value} (CODE)" in caplog.text


async def test_readyz_names_the_tasks_that_fail(serve: Serve, client):
    app = web.Application()
    app[health.READINESS] = health.Readiness()
    app[STORE], app[UPSTREAMS] = Dependency(), [Dependency()]  # type: ignore[misc]
    app[TASKS] = Tasks()
    app[TASKS].records |= {"one": TaskRecord(), "two": TaskRecord(3, 1, "ValueError"), "a third": TaskRecord(1, 1)}
    app.add_routes(health.ROUTES)
    async with client.get(await serve(app) / "readyz") as answer:
        assert (answer.status, (await answer.json())["tasks"]) == (503, "failing: a third, two")


async def test_a_task_without_which_requests_go_well_is_named_only(serve: Serve, client):
    app = web.Application()
    app[health.READINESS] = health.Readiness()
    app[STORE], app[UPSTREAMS] = Dependency(), [Dependency()]  # type: ignore[misc]
    app[TASKS] = Tasks()
    app[TASKS].records["one"] = TaskRecord(1, 1, "ValueError", is_vital=False)
    app.add_routes(health.ROUTES)
    async with client.get(await serve(app) / "readyz") as answer:
        told = await answer.json()
        assert (answer.status, told["status"], told["tasks"]) == (200, "ok", "failing: one")
