"""`branchline demo`: a conversation that shows what branches are, sent to a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from proxy.cli.commands.maintenance import UpkeepError
from proxy.cli.commands.terminal import Terminal
from proxy.config.values import base_url, page_url
from proxy.page.content.demo import demo_file

if TYPE_CHECKING:
    from argparse import Namespace

    from proxy.config.settings import Config

#: Seconds that the server has to answer.
IMPORT_SECONDS = 30.0


async def run_demo(config: Config, options: Namespace) -> int:
    """Import the conversation and print where to look at it. options.key: is sent, '' for none. Raises UpkeepError."""
    address = (config.server.host, config.server.port)
    url = f"{base_url(*address)}/conversations/import"
    headers = {"Content-Type": "application/x-ndjson"}
    headers |= {"Authorization": f"Bearer {options.key}"} if options.key else {}
    conversation_id, content = demo_file()
    timeout = aiohttp.ClientTimeout(total=IMPORT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=content, headers=headers) as response,
        ):
            if response.status != 201:
                told = await response.json(content_type=None)
                raise UpkeepError(f"{url} answered {response.status}: {told.get('message', 'no reason was told')}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise UpkeepError(f"no Branchline answers at {url}; start one with `branchline serve`") from exc
    page = page_url(config, address)
    place = f"{page}c/{conversation_id}" if page else conversation_id
    Terminal(as_json=options.json).report(f"filled in {place}", {"id": conversation_id, "url": place if page else None})
    return 0
