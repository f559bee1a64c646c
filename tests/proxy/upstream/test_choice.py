"""Which servers serve a model, in which order: compared with the rule, said another way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.upstreams import NamedUpstreamConfig, UpstreamConfig
from proxy.protocol.errors import BadRequest, NotFound
from proxy.protocol.notes import Maker
from proxy.upstream.choice import Upstreams
from proxy.upstream.client import Upstream, create_session
from proxy.upstream.failover import Route

NAMES = st.text("ab-", min_size=1, max_size=4)
ENTRIES = st.one_of(NAMES, NAMES.map(lambda name: f"{name}*"), st.just("*"))


async def servers_of(entries: Sequence[Sequence[str]], **fields: Any) -> list[Upstream]:
    config = UpstreamConfig(url="http://127.0.0.1:1/v1")
    async with create_session(config) as session:
        return [
            Upstream(
                config,
                session,
                config.url,
                NamedUpstreamConfig(url=config.url, models=tuple(models), **fields),
                name=f"s{place}",
                is_one_of=len(entries),
            )
            for place, models in enumerate(entries)
        ]


def rank(entry: str, model: str) -> tuple[int, int] | None:
    """How well an entry fits a model, None if it does not."""
    if entry == model:
        return 2, 0
    if entry.endswith("*") and model[: len(entry) - 1] == entry[:-1]:
        return 1, len(entry)
    return None


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=3), min_size=1, max_size=4), NAMES)
def test_the_best_entry_decides_and_the_order_is_the_configurations(entries: list[list[str]], model: str):
    async def run() -> None:
        servers = await servers_of(entries)
        ranks = [max((found for one in models if (found := rank(one, model))), default=None) for models in entries]
        known = [found for found in ranks if found is not None]
        upstreams = Upstreams(servers)
        if not known:
            with pytest.raises(NotFound):
                upstreams.choose(model)
            return
        best = max(known)
        expected = [server for server, found in zip(servers, ranks, strict=True) if found == best]
        assert list(upstreams.choose(model)) == expected

    asyncio.run(run())


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=3), min_size=1, max_size=4))
def test_what_names_no_model_has_one_place(entries: list[list[str]]):
    async def run() -> None:
        servers = await servers_of(entries)
        upstreams = Upstreams(servers)
        with_rest = [server for server, models in zip(servers, entries, strict=True) if "*" in models]
        assert upstreams.rest is (with_rest or servers)[0]
        with pytest.raises(BadRequest) as refused:
            upstreams.choose("")
        assert refused.value.param == "model"

    asyncio.run(run())


@pytest.mark.parametrize("model", ["*", "a*", "**"])
async def test_a_name_is_never_taken_for_an_entry(model: str):
    upstreams = Upstreams(await servers_of([["a*"], ["b"], ["*"]]))
    assert upstreams.choose(model)[0].name == ("s0" if model.startswith("a") else "s2")


async def test_the_only_one_takes_everything():
    config = UpstreamConfig(url="http://127.0.0.1:1/v1")
    async with create_session(config) as session:
        alone = Upstreams([Upstream(config, session, config.url)])
    assert [alone.choose(model)[0].name for model in ("", "m", "*")] == ["127.0.0.1:1/v1"] * 3
    assert not alone.looks_at_models
    assert alone.choose("m")[0].mark == ""


async def test_those_in_bad_standing_come_last_and_who_sealed_comes_first_among_the_good():
    servers = await servers_of([["m"]] * 4)
    for _ in range(3):
        servers[0].note(worked=False)
        servers[2].note(worked=False)
    route = Route("m", servers, first=servers[3])
    order = [route.server]
    while route.advance():
        order.append(route.server)
    assert [server.name for server in order] == ["s3", "s1", "s0", "s2"]
    assert Route("m", servers, first=servers[2]).server is servers[1]


async def test_who_sealed_something_is_told_by_its_mark_then_by_its_maker():
    servers = await servers_of([["m"], ["*"]])
    upstreams = Upstreams(servers)
    assert upstreams.sealer("s0", None) is servers[0]
    assert upstreams.sealer("gone", None) is None
    assert upstreams.sealer("", Maker("127.0.0.1:1/v1", "m")) is servers[0]
    assert upstreams.sealer("", Maker("elsewhere/v1", "m")) is None
    assert upstreams.sealer("", None) is servers[1]


@pytest.mark.parametrize(
    ("url", "told", "provider"),
    [
        ("https://api.openai.com/v1", "", "openai"),
        ("https://eu.api.openai.com/v1", "", "openai"),
        ("https://notapi.openai.com/v1", "", "n"),
        ("https://x.openai.azure.com/openai/v1", "", "azure.ai.openai"),
        ("http://127.0.0.1:8000/v1", "", "n"),
        ("http://127.0.0.1:8000/v1", "vllm", "vllm"),
        ("https://api.openai.com/v1", "gateway", "gateway"),
    ],
)
async def test_providers(url: str, told: str, provider: str):
    config = UpstreamConfig(url=url)
    async with create_session(config) as session:
        named = NamedUpstreamConfig(url=url, models=("*",), provider=told)
        assert Upstream(config, session, url, named, name="n").provider == provider
