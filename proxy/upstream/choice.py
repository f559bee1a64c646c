"""Upstream choice: the model servers that serve a model, in the order in which they are asked.

    an exact name, else the longest beginning (`gpt-*`), else `*`; no match is an error, never a guess

Of several servers with the same entry the first of the configuration comes first; those that have failed three times
in a row come last for a while. What names no model goes to the server with `*`, else to the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.config.settings import upstream_settings
from proxy.config.upstreams import ECHO
from proxy.protocol.errors import NotFound, missing_parameter
from proxy.upstream.client import Upstream, create_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config.settings import Config
    from proxy.protocol.notes import Maker

#: The model servers.
UPSTREAMS: AppKey[Upstreams] = AppKey("upstreams")

#: Takes whatever no other entry fits.
REST = "*"


def model_not_found(model: str) -> NotFound:
    """404 for a model that no server is configured to serve."""
    return NotFound(f"The model '{model[:200]}' does not exist here.", param="model", code="model_not_found")


class Upstreams:
    """All model servers, in the order of the configuration."""

    def __init__(self, servers: Sequence[Upstream]) -> None:
        self._servers = tuple(servers)
        self._takes_all = len(self._servers) == 1 and not self._servers[0].is_named
        self._by_entry: dict[str, tuple[Upstream, ...]] = {}
        for server in self._servers:
            for entry in dict.fromkeys(server.models):
                self._by_entry[entry] = (*self._by_entry.get(entry, ()), server)
        endless = (entry for entry in self._by_entry if entry.endswith("*"))
        #: What names may begin with, without the `*`, the longest first; that of `*` itself is ''.
        self._beginnings = sorted((entry[:-1] for entry in endless), key=len, reverse=True)
        #: Where goes what names no model.
        self.rest = self._by_entry.get(REST, self._servers)[0]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def looks_at_models(self) -> bool:
        """Whether a model's name decides anything: where a request goes, or what the model is called there."""
        return not self._takes_all

    def choose(self, model: str) -> Sequence[Upstream]:
        """Return the servers that serve a model, in order, at least one. model: '' where a request names none.

        Raises BadRequest, NotFound.
        """
        if self._takes_all:
            return self._servers
        if not model:
            raise missing_parameter("model")
        found = self.serving(model)
        if not found:
            raise model_not_found(model)
        return found

    def serving(self, model: str) -> Sequence[Upstream]:
        """Return the servers that serve a model, in order, none if none does."""
        if self._takes_all:
            return self._servers
        if not model.endswith("*") and (exact := self._by_entry.get(model)):
            return exact
        for beginning in self._beginnings:
            if model.startswith(beginning):
                return self._by_entry[f"{beginning}*"]
        return ()

    def sealer(self, name: str, maker: Maker | None) -> Upstream | None:
        """Return the server that sealed something, None if that is none of these.

        name: in its mark, '' for what has none: its maker's address tells then, and of what has no maker either nobody
        knows, so it is taken for the one's that takes the rest.
        """
        if name:
            return next((server for server in self._servers if server.name == name), None)
        if maker is not None:
            return next((server for server in self._servers if server.address == maker.upstream), None)
        return self.rest


@asynccontextmanager
async def open_upstreams(config: Config, echo_url: str) -> AsyncIterator[Upstreams]:
    """Give the model servers of a configuration; their connections are closed at the end.

    echo_url: where the built-in model listens, for those that are it.
    """
    async with AsyncExitStack() as stack:
        servers = []
        settings = upstream_settings(config)
        for name, one in settings.items():
            session = await stack.enter_async_context(create_session(one))
            url = echo_url if one.url == ECHO else one.url
            server = Upstream(one, session, url, config.upstreams.get(name), name=name, is_one_of=len(settings))
            servers.append(await stack.enter_async_context(server))
        yield Upstreams(servers)
