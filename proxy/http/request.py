"""Request: aiohttp's, which looks into what is noted of it without an exception where that is nothing."""

from __future__ import annotations

from typing import Any

from aiohttp import web


class ClientRequest(web.Request):
    """A client's request. app: the one application that answers on this server.

    aiohttp's looks its application up in two steps each time it is asked; and asked for what is not noted, it raises
    and catches KeyError in `collections.abc`. A turn asks seven and six times, which was a twentieth of its calls.
    """

    app: web.Application = None  # type: ignore[assignment]

    def get(self, key: Any, default: Any = None) -> Any:
        """Return what is noted under a key."""
        return self._state.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._state
