"""Rendering: conversations, branches, items and lists of them as the JSON that clients get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from proxy.protocol.errors import ApiError
from proxy.protocol.items import hide_sealed, stored_id
from proxy.protocol.params import asks_encrypted
from proxy.protocol.store_errors import from_store_error
from storage import Branch, Comparison, Conversation, StoreError


def render(conversation: Conversation) -> dict[str, Any]:
    """Return a Conversation object: OpenAI's four fields, then ours; times in seconds."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
        "title": conversation.title,
        "updated_at": conversation.updated_at // 1000,
        "project_id": conversation.project_id,
        "referrer": conversation.referrer,
        "active_branch": conversation.active_branch,
    }


def show(item: bytes, request: web.Request) -> bytes:
    """Return a stored item as this request may see it."""
    return item if asks_encrypted(request.query) else hide_sealed([item])[0]


def naming(error: StoreError, param: str) -> ApiError:
    """Return what a caller is told about a refusal of the store, with the field that it is about."""
    answer = from_store_error(error)
    answer.param = param
    return answer


def render_branch(branch: Branch) -> dict[str, Any]:
    """Return a Branch object; times in seconds, null for what a branch that was not forked lacks."""
    return {
        "object": "conversation.branch",
        "name": branch.name,
        "description": branch.description,
        "parent_branch": branch.parent_branch,
        "forked_at": branch.forked_at,
        "forked_from_item_id": branch.forked_from_item_id,
        "item_count": branch.item_count,
        "created_at": branch.created_at,
        "updated_at": branch.updated_at,
        "is_active": branch.is_active,
    }


def render_comparison(first: str, second: str, comparison: Comparison, *, show_encrypted: bool) -> bytes:
    """Return a comparison of two branches; items are spliced in as bytes.

    show_encrypted: leave `encrypted_content` in reasoning items.
    """
    ancestor = comparison.ancestor
    head = {
        "object": "conversation.branch.comparison",
        "branch": first,
        "other_branch": second,
        "common_ancestor_item_id": stored_id(ancestor) if ancestor else None,
        "shared_item_count": comparison.shared,
    }
    shown = b"null"
    if ancestor:
        shown = ancestor if show_encrypted else hide_sealed([ancestor])[0]
    sides = [
        item_list(page.items, has_more=page.has_more, show_encrypted=show_encrypted)
        for page in (comparison.only_first, comparison.only_second)
    ]
    fields = zip((b"common_ancestor", b"only_in_branch", b"only_in_other_branch"), (shown, *sides), strict=True)
    return orjson.dumps(head)[:-1] + b"".join(b',"%b":%b' % field for field in fields) + b"}"


def item_list(items: Sequence[bytes], *, has_more: bool, show_encrypted: bool) -> bytes:
    """Return OpenAI's list object over stored items, which are spliced in as bytes."""
    shown = items if show_encrypted else hide_sealed(items)
    tail = {
        "first_id": stored_id(items[0]) if items else None,
        "last_id": stored_id(items[-1]) if items else None,
        "has_more": has_more,
    }
    return b'{"object":"list","data":[' + b",".join(shown) + b"]," + orjson.dumps(tail)[1:]
