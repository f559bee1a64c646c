"""Reload: what of a new configuration may take effect under a running supervisor, and what needs a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from proxy.config.loading import ConfigError
from proxy.config.validation import violations

if TYPE_CHECKING:
    from proxy.config.settings import Config

#: What the supervisor itself holds as long as it lives: its sockets, and the folder of its Valkey.
FIXED = ("server.host", "server.port", "data.dir", "data.max_memory_bytes", "metrics.host", "metrics.port")


def keep_fixed(running: Config, new: Config) -> tuple[Config, list[str]]:
    """Return `new` without what needs a restart, and the keys of that.

    Raises ConfigError if what is new and what stays do not go together.
    """
    names = [name for name in FIXED if _value(running, name) != _value(new, name)]
    if bool(running.redis.url) != bool(new.redis.url):
        # from the embedded Valkey to a server, or back
        names.append("redis.url")
    kept = new
    for name in names:
        section, _, key = name.partition(".")
        changed = msgspec.structs.replace(getattr(kept, section), **{key: _value(running, name)})
        kept = msgspec.structs.replace(kept, **{section: changed})
    for name, problem in violations(kept):
        raise ConfigError(f"{name}: {problem} (until a restart {', '.join(names)} can't change)")
    return kept, names


def _value(config: Config, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)
