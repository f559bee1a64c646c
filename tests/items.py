"""Items as clients send them and as they come back: a user's message, and what a test compares lists of items by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def user(text: str) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}


def kinds(items: Iterable[Any]) -> list[str]:
    """Messages by their role, other items by their type."""
    return [item.get("role") or item["type"] for item in items]


def texts(items: Iterable[dict[str, Any]]) -> list[str]:
    """The texts of messages and of reasoning's summaries, part by part."""
    return [part["text"] for item in items for part in item.get("content") or item.get("summary") or []]
