"""What a served Branchline has counted, as a scraper is told."""

from __future__ import annotations

from typing import TypeAlias

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

TURNS = "branchline_turns_total"


#: Values by name and labels.
Samples: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Every sample by its name and labels, none of which may come twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name, frozenset(sample.labels.items())
            assert name not in found
            found[name] = sample.value
    return found


async def scrape(port: int) -> Samples:
    """Every sample of a server."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        return samples(await answer.text())


async def total(port: int, metric: str) -> float:
    return sum(value for (name, _), value in (await scrape(port)).items() if name == metric)
