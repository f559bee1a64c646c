"""What a served Branchline has counted, as a scraper is told."""

from __future__ import annotations

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

TURNS = "branchline_turns_total"


async def scrape(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, none of which may come twice."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name, frozenset(sample.labels.items())
            assert name not in found
            found[name] = sample.value
    return found


async def total(port: int, metric: str) -> float:
    return sum(value for (name, _), value in (await scrape(port)).items() if name == metric)
