"""The store that a configuration names: for the server, and for the commands that work on it directly."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from proxy import __version__
from proxy.config.settings import QuotasConfig
from proxy.config.values import describe_redis
from storage import LISTED_RESPONSES, Disk, Safeguards, Store, Unavailable, UnsupportedLayout
from storage.embedded import EmbeddedValkey, require_data, running_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config.settings import Config

#: What is kept for ever without a conversation around it has this time to live, so that every key still has one.
FOREVER_SECONDS = 100 * 365 * 86_400

#: Who is noted in a store as having written it.
WRITER = f"Branchline {__version__}"


class UnusableStore(Exception):
    """The store is none for this version; `str()` is one line for the terminal: why, and what to do."""


@asynccontextmanager
async def open_store(
    config: Config, *, alone: bool = False, existing: bool = False, whatever: bool = False
) -> AsyncIterator[Store]:
    """Give the store, and close it at the end; without a `redis.url` a Valkey of our own runs in `data.dir`.

    alone: for a server: owners have their quotas, and a folder that another Branchline uses is refused. Else its Valkey
    is used, which ends when that one ends. existing: refuse a folder that no store was ever in, and make none.
    whatever: do not look at its layout. Raises EmbeddedUnavailable; UnusableStore for a store that is not laid out as
    this version knows it, which is found out later, by whoever asks it first, where it can't be reached now; ValueError
    for a `redis.url` that can't be used.
    """
    async with AsyncExitStack() as stack:
        url, description = await _locate(config, stack, alone=alone, existing=existing)
        store = Store.connect(
            url,
            prefix=config.redis.prefix,
            timeout_seconds=config.redis.timeout_seconds,
            max_connections=config.redis.max_connections,
            retention_seconds=_seconds(config.responses.retention_days) or FOREVER_SECONDS,
            conversation_seconds=_seconds(config.conversations.retention_days),
            safeguards=_safeguards(config, url, config.quotas if alone else QuotasConfig()),
        )
        store.description = description
        stack.push_async_callback(store.close)
        if not whatever:
            await _see_to_layout(store)
        yield store


async def _see_to_layout(store: Store) -> None:
    try:
        await store.layout.open(WRITER)
    except UnsupportedLayout as exc:
        raise UnusableStore(f"{store.description} {exc.subject}") from exc
    except Unavailable:
        store.layout.open_later(WRITER)


def _safeguards(config: Config, url: str, quotas: QuotasConfig) -> Safeguards:
    """Return what the store is kept from. quotas: that are minded; what owners have stored is counted all the same."""
    return Safeguards(
        disk=_disk(config, url),
        min_replicas=config.redis.min_replicas,
        replicas_on_disk=config.redis.min_replicas_on_disk,
        most_conversations=quotas.conversations,
        listed_responses=LISTED_RESPONSES if config.responses.list_recent else 0,
        counts_bytes=config.quotas.stored_bytes > 0,
        most_bytes=quotas.stored_bytes,
    )


def _disk(config: Config, url: str) -> Disk | None:
    """Return the disk of the embedded Valkey, which a worker of several knows by its socket; None of any other server.

    A folder with a long name has its socket behind a link.
    """
    folder, least = Path(config.data.dir), config.data.min_free_bytes
    socket = Path(unquote(url.removeprefix("unix://")))
    is_embedded = url.startswith("unix://") and socket.parent.resolve() == folder.expanduser().resolve()
    return Disk(folder.expanduser(), least) if least and is_embedded else None


def _seconds(days: float) -> int:
    return max(1, round(days * 86_400)) if days else 0


async def _locate(config: Config, stack: AsyncExitStack, *, alone: bool, existing: bool) -> tuple[str, str]:
    """Return the URL of the server and what it is called; `stack` ends what was started for it."""
    if config.redis.url:
        return config.redis.url, describe_redis(config.redis.url)
    directory = Path(config.data.dir)
    if not alone and (url := stack.enter_context(running_in(directory))):
        return url, f"the embedded Valkey that runs in {directory}"
    if existing:
        require_data(directory)
    embedded = await EmbeddedValkey.start(directory, max_memory_bytes=config.data.max_memory_bytes)
    stack.push_async_callback(embedded.stop)
    return embedded.url, embedded.description
