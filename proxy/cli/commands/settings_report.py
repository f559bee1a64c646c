"""`branchline config`: every setting in force, and where its value comes from; secrets are masked."""

from __future__ import annotations

from functools import reduce
from typing import Any

from rich.text import Text

from proxy.cli.commands.terminal import Terminal
from proxy.config.loading import SettingsRead
from proxy.config.schema import Key, keys
from proxy.config.settings import Secret
from proxy.config.values import describe_redis, describe_upstream

#: What stands for a secret that is set.
MASK = "********"


def report_settings(read: SettingsRead, *, only_changed: bool, as_json: bool) -> None:
    """Print settings: a line each, or a JSON object each. only_changed: without those that have their default."""
    terminal, rows = Terminal(as_json=as_json), []
    for key in keys(read.config.upstreams).values():
        origin = read.origins.get(key.name, "default")
        if only_changed and origin == "default":
            continue
        value = _shown(key, reduce(_inner, key.name.split("."), read.config))
        if as_json:
            terminal.record({"key": key.name, "value": value, "origin": origin, "variable": key.variable})
        else:
            rows.append((key.name, Text(_text(value), "" if origin == "default" else "bold"), origin))
    if not as_json:
        terminal.table(("KEY", "VALUE", "FROM"), rows)


def _inner(section: Any, name: str) -> Any:
    """Return a setting or a section of a section, or of a table of sections."""
    return section[name] if isinstance(section, dict) else getattr(section, name)


def _shown(key: Key, value: Any) -> Any:
    """Return a value as it may be seen: a URL of the store without its password, of a table of hashes the names."""
    if isinstance(value, Secret):
        text = str(value)
        if text and key.name == "redis.url":
            return describe_redis(text)
        return MASK if text else ""
    if key.is_secret and isinstance(value, dict):
        return dict.fromkeys(value, MASK) if key.name == "auth.api_keys" else dict(value)
    if isinstance(value, str) and key.name.endswith("url"):
        # a query may hold a key
        return describe_upstream(value) if value not in ("", "echo") else value
    if value is None:
        # of a named upstream: what all have in common
        return ""
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    return str(value)
