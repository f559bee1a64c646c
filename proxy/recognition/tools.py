"""A request's tools, and a session's key, as they are kept beside a turn. Pure."""

from __future__ import annotations

import hashlib
from typing import Any


def tools_digest(tools: Any) -> bytes:
    """Return 8 bytes for the names of the tools of a request of either API, b"" if it has none.

    What a tool says of itself may change from one request to the next.
    """
    if not isinstance(tools, list) or not tools:
        return b""
    names = sorted({_name(tool) for tool in tools})
    return hashlib.blake2b("\x00".join(names).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return ""
    inner = tool.get("function") or tool.get("custom")
    named = inner if isinstance(inner, dict) else tool
    return str(named.get("name") or named.get("server_label") or tool.get("type") or "")


def hashed_key(key: bytes, value: str) -> bytes:
    """Return 16 bytes that stand for a session's key, b"" for none. key: see `stream_key`."""
    if not value:
        return b""
    data = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, key=key, digest_size=16, person=b"session").digest()
