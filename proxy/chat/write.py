"""Items as messages: the messages that were taken down, or such as an app of Chat Completions would send. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from proxy.chat.compose import CALLS, OUTPUTS, ChatItem, compose
from proxy.chat.patches import patched
from proxy.protocol.item_types import Item


def write_messages(items: Iterable[ChatItem]) -> list[Item]:
    """Return the messages that items stand for; hosted calls and what else has no place in messages are left out."""
    messages = []
    for group in _groups(items):
        chat = group[0].chat or {}
        message = compose([one.item for one in group], chat)
        patch: Any = chat.get("patch")
        messages.append(patched(message, patch) if patch else message)
    return messages


def _groups(items: Iterable[ChatItem]) -> Iterator[list[ChatItem]]:
    """Yield the items of each message."""
    group: list[ChatItem] = []
    for one in items:
        kind = one.item.get("type")
        if kind not in ("message", "reasoning", *CALLS, *OUTPUTS):
            continue
        if group and not _belongs(one, group):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _belongs(one: ChatItem, group: list[ChatItem]) -> bool:
    """Whether an item is a part of the message that those before it are."""
    last = group[-1].item
    if (one.chat or {}).get("begins") or not _is_of_assistant(one.item) or not _is_of_assistant(last):
        return False
    return one.item["type"] in CALLS or (one.item["type"], last["type"]) == ("message", "reasoning")


def _is_of_assistant(item: Item) -> bool:
    return item["type"] in ("reasoning", *CALLS) or (item["type"] == "message" and item.get("role") == "assistant")
