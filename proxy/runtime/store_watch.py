"""Store watch: what has to be known of the store before anybody asks it: whether it takes writes, and has room."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.runtime.tasks import Tasks
from storage import Store

#: Seconds between two looks.
LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


@asynccontextmanager
async def watching(store: Store, tasks: Tasks) -> AsyncIterator[None]:
    """Look after the store for as long as the context lasts; what is wrong with it is a task that fails.

    The first time that all is well the log warns of what may go wrong one day.
    """
    told = False

    async def look() -> None:
        nonlocal told
        await store.condition.look()
        if not told:
            await _warn(store)
            told = True

    async with (
        tasks.periodic("writing to the store", LOOK_SECONDS, look, logger),
        # without Sentinels the connections that there are go on
        tasks.steady("news of the store's primary", store.follow_primary, logger, vital=False),
    ):
        yield


async def _warn(store: Store) -> None:
    for risk in await store.risks.find():
        logger.warning("the store can lose something: %s", risk)
    if rights := await store.risks.missing_rights():
        logger.error("the store's user may not run what Branchline needs: %s", ", ".join(rights))
