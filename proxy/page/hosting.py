"""What the page stands on: its services, started with the server, and whether there is a page at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from proxy.auth.caller import AUTHENTICATOR
from proxy.config.values import page_url
from proxy.http.keys import CONFIG
from proxy.page.layout import TEMPLATES, Templates, add_headers
from proxy.page.renderer import RENDERER, Renderer
from proxy.page.routes import ROUTES as PAGE_ROUTES
from proxy.page.session import DOORKEEPER, Doorkeeper
from proxy.sealing import SEALER

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.config.settings import Config


def is_served(config: Config) -> bool:
    """Tell whether there is a page: `ui.enabled`."""
    return page_url(config, (config.server.host, config.server.port)) != ""


def add_page(app: web.Application) -> frozenset[str]:
    """Add the page to an application; return its paths, which see to their credentials themselves."""
    app[TEMPLATES] = Templates()
    app.add_routes(PAGE_ROUTES)
    app.on_response_prepare.append(add_headers)
    return frozenset(route.path for route in PAGE_ROUTES)


async def provide_page(app: web.Application) -> AsyncIterator[None]:
    """Let people in, and end the rendering process with the server."""
    app[DOORKEEPER] = Doorkeeper(app[CONFIG], app[AUTHENTICATOR], app[SEALER])
    async with Renderer().running() as renderer:
        app[RENDERER] = renderer
        yield
