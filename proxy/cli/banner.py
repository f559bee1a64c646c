"""Start-up banner: what `branchline serve` prints once it listens, and how places are named without their secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy import __version__
from proxy.config.values import base_url, describe_upstream, page_url

if TYPE_CHECKING:
    from proxy.config.settings import Config

_AUTH = {
    "passthrough": "passthrough: every caller by its own upstream key",
    "jwt": "jwt: every caller by its verified token",
    "api_keys": "api_keys: every caller by its Branchline key",
    "none": "none: everybody is one owner",
}


def _upstreams(config: Config) -> list[str]:
    if not config.upstreams:
        return [f"  upstream  {describe_upstream(config.upstream.url)}"]
    lines = [f"{name}: {', '.join(one.models)}" for name, one in config.upstreams.items()]
    return [f"  {'upstreams' if place == 0 else '':<9} {line}" for place, line in enumerate(lines)]


def render_banner(config: Config, address: tuple[str, int], store: str, workers: int = 1, *, metrics: str = "") -> str:
    """Return the start-up block.

    address: host and port listened on. store: what holds the state. workers: processes that serve. metrics: where they
    are, '' if they are not offered.
    """
    base, page = base_url(*address), page_url(config, address)
    return "\n".join(
        [
            f"Branchline {__version__} listens on {base.removesuffix('/v1')}",
            "",
            f"  store     {store}",
            *_upstreams(config),
            f"  auth      {_AUTH[config.auth.mode]}",
            *([f"  workers   {workers}"] if workers > 1 else []),
            *([f"  metrics   {metrics}"] if metrics else []),
            *([f"  page      {page}"] if page else []),
            "",
            f'  base_url = "{base}"',
            f"  OPENAI_BASE_URL={base}",
            "",
        ]
    )
