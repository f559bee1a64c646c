"""`branchline conversations`: list, show, draw and delete conversations of any owner, on the store itself."""

from __future__ import annotations

import heapq
import sys
import time
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from proxy.api.rendering import render, render_branch
from proxy.cli.commands.check import store_problem
from proxy.cli.commands.item_text import TextLine, line_of
from proxy.cli.commands.maintenance import UpkeepError, nothing_found
from proxy.cli.commands.terminal import Terminal
from proxy.stores import open_store
from storage import (
    Branch,
    BranchNotFound,
    Conversation,
    ConversationNotFound,
    ItemPage,
    PageRequest,
    Store,
    StoreError,
    Unavailable,
    partition_of,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Sequence

    from proxy.config.settings import Config

#: Conversations, or branches, that are read in one round trip.
READ_AT_ONCE = 100
#: Longest text of an item that is shown without `--full`, in characters.
MAX_SHOWN = 300
#: Longest title that is listed, in characters.
MAX_TITLE_SHOWN = 60

_STYLES = {"user": "bold", "assistant": "", "system": "dim", "developer": "dim"}


async def run_list(config: Config, options: Namespace) -> int:
    """Print conversations, of `options.owner` or of all, the last used first; return the exit status.

    Raises UpkeepError when the store can't be used or there are none, EmbeddedUnavailable, UnusableStore.
    """
    terminal = Terminal(as_json=options.json)
    async with open_store(config, existing=True) as store:
        try:
            found = heapq.nlargest(options.limit, await _find(store, options), key=lambda one: one[1].updated_at)
            titles = [await _title(store, owner, one) for owner, one in found]
        except Unavailable as exc:
            raise _unavailable(store, exc) from exc
        if not found and options.owner:
            raise nothing_found(config, store, options.owner)
        if not found:
            print(f"branchline: there are no conversations in {store.description}", file=sys.stderr)
    if terminal.as_json:
        for owner, one in found:
            terminal.record({"owner": owner, **render(one)})
        return 0
    rows = [
        (one.id, age(one.updated_at / 1000), owner, title) for (owner, one), title in zip(found, titles, strict=True)
    ]
    terminal.table(("ID", "LAST USED", "OWNER", "TITLE"), rows)
    return 0


async def run_show(config: Config, options: Namespace) -> int:
    """Print a conversation and the last items of a branch; return the exit status.

    Raises UpkeepError when there is no such conversation or branch or the store can't be used, EmbeddedUnavailable,
    UnusableStore.
    """
    terminal = Terminal(as_json=options.json)
    async with open_store(config, existing=True) as store:
        owner, conversation = await find_conversation(store, options.id)
        page = await last_items(store, owner, conversation, options.branch, options.last)
        branches = await read_branches(store, owner, conversation.id)
    branch = next(one for one in branches if one.name == (options.branch or conversation.active_branch))
    if terminal.as_json:
        facts = {"owner": owner, **render(conversation), "branches": len(branches)}
        terminal.record({**facts, "branch": branch.name, "item_count": branch.item_count})
        for item in reversed(page.items):
            print(item.decode())
        return 0
    for name, value in _facts(owner, conversation, branch, len(branches)):
        terminal.draw(Text.assemble((f"{name:10} ", "dim"), value))
    terminal.say("")
    if page.has_more:
        terminal.draw(Text(f"… {branch.item_count - len(page.items):,} earlier items", "dim"))
    for item in reversed(page.items):
        terminal.draw(draw_line(line_of(item), None if options.full else MAX_SHOWN))
    return 0


async def run_tree(config: Config, options: Namespace) -> int:
    """Draw a conversation's branches, each below the one that it was forked from; return the exit status.

    Raises what `run_show` raises.
    """
    terminal = Terminal(as_json=options.json)
    async with open_store(config, existing=True) as store:
        owner, conversation = await find_conversation(store, options.id)
        branches = await read_branches(store, owner, conversation.id)
    if terminal.as_json:
        for branch in branches:
            terminal.record(render_branch(branch))
        return 0
    tree = Tree(Text(conversation.title or conversation.id, "bold"))
    names = {branch.name for branch in branches}
    nodes: dict[str, Tree] = {}
    waiting = list(branches)
    while waiting:
        # those whose parent stands already; a parent that was deleted leaves its children at the top
        ready = [one for one in waiting if one.parent_branch not in names or one.parent_branch in nodes]
        for branch in ready or waiting:
            nodes[branch.name] = nodes.get(branch.parent_branch or "", tree).add(_draw_branch(branch))
        waiting = [one for one in waiting if one.name not in nodes]
    terminal.draw(tree)
    return 0


async def run_delete(config: Config, options: Namespace) -> int:
    """Delete the conversations `options.ids`; return the exit status: 1 if one of them was not there.

    Raises UpkeepError when the store can't be used or none of them is there, EmbeddedUnavailable, UnusableStore.
    """
    terminal, missing = Terminal(as_json=options.json), 0
    async with open_store(config, existing=True) as store:
        for conversation_id in options.ids:
            try:
                owner, _ = await find_conversation(store, conversation_id)
                await store.conversations.delete(owner, conversation_id)
            except UpkeepError as exc:
                if len(options.ids) == 1:
                    raise
                missing += 1
                terminal.report(str(exc), {"id": conversation_id, "deleted": False})
            except ConversationNotFound:
                # somebody else was faster
                terminal.report(f"{conversation_id} is deleted", {"id": conversation_id, "deleted": True})
            except Unavailable as exc:
                raise _unavailable(store, exc) from exc
            else:
                terminal.report(f"deleted {conversation_id} of {owner}", {"id": conversation_id, "deleted": True})
    return 1 if missing else 0


async def find_conversation(store: Store, conversation_id: str) -> tuple[str, Conversation]:
    """Return a conversation and its owner, whoever that is. Raises UpkeepError when it is not there."""
    try:
        found = await store.archive.identify([partition_of(conversation_id)])
    except Unavailable as exc:
        raise _unavailable(store, exc) from exc
    for owner, conversation in found:
        if conversation.id == conversation_id:
            return owner, conversation
    raise UpkeepError(f"there is no conversation {conversation_id} in {store.description}")


async def last_items(store: Store, owner: str, conversation: Conversation, branch: str, limit: int) -> ItemPage:
    """Return the last items of a branch ('': the active one), the newest first. Raises UpkeepError."""
    items: list[bytes] = []
    after: str | None = None
    while True:
        page = PageRequest(limit=min(READ_AT_ONCE, limit - len(items)), after=after)
        try:
            found = await store.items.list_page(owner, conversation.id, page, branch=branch)
        except BranchNotFound as exc:
            raise UpkeepError(f"{conversation.id} has no branch {branch}") from exc
        except Unavailable as exc:
            raise _unavailable(store, exc) from exc
        except StoreError as exc:
            raise UpkeepError(f"{conversation.id} was deleted or changed meanwhile ({exc.subject})") from exc
        items += found.items
        if len(items) >= limit or not found.has_more:
            return ItemPage(items, found.has_more)
        after = line_of(found.items[-1]).id


async def read_branches(store: Store, owner: str, conversation_id: str) -> Sequence[Branch]:
    """Return all branches in the order in which they were made. Raises UpkeepError."""
    branches: list[Branch] = []
    after: str | None = None
    while True:
        page = PageRequest(READ_AT_ONCE, after, ascending=True)
        try:
            found = await store.branches.list_page(owner, conversation_id, page)
        except Unavailable as exc:
            raise _unavailable(store, exc) from exc
        except StoreError as exc:
            raise UpkeepError(f"{conversation_id} was deleted or changed meanwhile ({exc.subject})") from exc
        branches += found.branches
        if not found.has_more:
            return branches
        after = found.branches[-1].name


def draw_line(line: TextLine, limit: int | None) -> Text:
    """Return an item as it is shown. limit: characters of its text at most."""
    text = line.text if limit is None or len(line.text) <= limit else f"{line.text[:limit]}…"
    return Text.assemble((f"{line.label}: ", "cyan"), (text, _STYLES.get(line.label, "dim")))


def age(moment: float) -> str:
    """Return how long ago a moment was, in Unix seconds, in its largest unit."""
    seconds = max(0, int(time.time() - moment))
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:,} {unit} ago"
    return f"{seconds} s ago"


async def _find(store: Store, options: Namespace) -> list[tuple[str, Conversation]]:
    """Return an owner's newest conversations, or those of all owners."""
    if options.owner:
        return [(options.owner, one) async for one in _of_owner(store, options.owner, options.limit)]
    found: list[tuple[str, Conversation]] = []
    partitions = sorted({name async for name in store.sweeper.partitions()})
    for i in range(0, len(partitions), READ_AT_ONCE):
        found += await store.archive.identify(partitions[i : i + READ_AT_ONCE])
        found = heapq.nlargest(options.limit, found, key=lambda one: one[1].updated_at)
    return found


async def _of_owner(store: Store, owner: str, limit: int) -> AsyncIterator[Conversation]:
    after: str | None = None
    while limit > 0:
        page = await store.conversations.list_page(owner, PageRequest(min(limit, READ_AT_ONCE), after))
        for conversation in page.conversations:
            yield conversation
        if not page.has_more:
            return
        limit -= len(page.conversations)
        after = page.next_cursor


async def _title(store: Store, owner: str, conversation: Conversation) -> str:
    """Return a title, or the first words of the first message, in quotes."""
    if conversation.title:
        return _shorten(conversation.title)
    try:
        page = await store.items.list_page(owner, conversation.id, PageRequest(1, ascending=True))
    except Unavailable:
        raise
    except StoreError:
        return ""
    return f'"{_shorten(line_of(page.items[0]).text)}"' if page.items else ""


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MAX_TITLE_SHOWN else f"{words[:MAX_TITLE_SHOWN]}…"


def _facts(owner: str, one: Conversation, branch: Branch, branches: int) -> list[tuple[str, str]]:
    facts = [
        ("id", one.id),
        ("title", one.title or ""),
        ("owner", owner),
        ("created", f"{_moment(one.created_at)} ({age(one.created_at)})"),
        ("last used", f"{_moment(one.updated_at / 1000)} ({age(one.updated_at / 1000)})"),
        ("branch", f"{branch.name}{' (active)' if branch.is_active else ''}, {branch.item_count:,} items"),
        ("branches", f"{branches:,}"),
        ("project", one.project_id or ""),
        ("referrer", one.referrer or ""),
        *((f"{name}", value) for name, value in one.metadata.items()),
    ]
    return [(name, value) for name, value in facts if value]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _draw_branch(branch: Branch) -> Text:
    drawn = Text(branch.name, "bold green" if branch.is_active else "bold")
    drawn.append(" active" if branch.is_active else "", "green")
    drawn.append(f"  {branch.item_count:,} items, {age(branch.updated_at)}", "dim")
    if branch.forked_from_item_id:
        drawn.append(f", from {branch.forked_from_item_id}", "dim")
    if branch.description:
        drawn.append(f"  {branch.description}", "italic")
    return drawn


def _unavailable(store: Store, exc: Unavailable) -> UpkeepError:
    return UpkeepError(f"{store.description} {store_problem(exc)}")
