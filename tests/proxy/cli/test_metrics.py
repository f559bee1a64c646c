"""Metrics and log of a served Branchline: one target, one set, whatever the number of its processes."""

from __future__ import annotations

import json
import os
import re
import signal

import aiohttp
import pytest

from benchmarks.processes import free_port
from tests.processes import run
from tests.proxy.cli.conftest import Serve
from tests.proxy.cli.scraping import TURNS, scrape, total
from tests.proxy.cli.serving import Served

HELLO = {"model": "m", "input": "hello"}


async def turn(served: Served) -> None:
    """Take a turn over a connection of its own."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/responses", json=HELLO, headers={"Authorization": "Bearer k"}) as answer,
    ):
        assert answer.status == 200, await answer.text()


async def test_one_process_offers_its_metrics_beside_the_api(serve: Serve):
    port = free_port()
    served = await serve(BRANCHLINE_METRICS_PORT=str(port))
    assert f"  metrics   http://127.0.0.1:{port}/metrics\n" in served.block
    await turn(served)
    assert await total(port, TURNS) == 1
    (build,) = [dict(labels) for name, labels in await scrape(port) if name == "branchline_build_info"]
    assert build["store"] == "embedded"
    address = served.url.removesuffix("/v1") + "/metrics"
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        assert answer.status == 404


async def test_several_workers_are_one_set_that_outlives_each(serve: Serve):
    port = free_port()
    served = await serve("--workers", "2", BRANCHLINE_METRICS_PORT=str(port))
    for _ in range(6):
        await turn(served)
    assert await total(port, TURNS) == await total(port, "branchline_turn_seconds_count") == 6
    found = await scrape(port)
    assert {dict(labels)["process"] for name, labels in found if name == "process_open_fds"} == {"supervisor", "1", "2"}
    assert len([name for name, _ in found if name == "branchline_build_info"]) == 1
    victim = int(re.findall(r"worker 1 \(process (\d+)\) is ready", served.log)[0])
    os.kill(victim, signal.SIGKILL)
    await served.logged(r"worker 1 \(process \d+\) is ready", times=2)
    assert await total(port, TURNS) == 6
    for _ in range(6):
        await turn(served)
    assert await total(port, TURNS) == 12
    await served.logged(r"POST /v1/responses 200", times=12)


async def test_a_port_that_is_taken_is_said(tmp_path: pytest.TempPathFactory):
    port = free_port()
    failed = run(
        *("serve", "--upstream", "echo", "--port", port, "--data-dir", tmp_path),
        BRANCHLINE_METRICS_PORT=str(port),
    )
    assert failed.returncode == 2
    assert "metrics.port" in failed.stderr


async def test_the_log_as_objects(serve: Serve):
    served = await serve(BRANCHLINE_LOG_FORMAT="json")
    await turn(served)
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            async with session.get(served.url.removesuffix("/v1") + path) as answer:
                assert answer.status == 200
    await served.logged("openapi.json 200")
    served.process.send_signal(signal.SIGTERM)
    _, log = await served.end()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["route"] for line in lines if "route" in line] == ["/v1/responses", "/openapi.json"]
    (line,) = [line for line in lines if line.get("route") == "/v1/responses"]
    assert (line["mode"], line["outcome"], line["model"], line["upstream"]) == ("plain", "completed", "m", "echo")
    assert (line["history_items"], line["attempts"], line["status"]) == (0, 1, 200)
    assert line["response_id"].startswith("resp_")
