"""Screens of branches: the graph of segments, two branches beside each other, the search on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.http.answers import path_conversation_id
from proxy.http.keys import STORE
from proxy.page.content.cards import Card, card_of, first_line
from proxy.page.content.forest import covers
from proxy.page.content.search import MAX_HITS
from proxy.page.content.thread import BranchForest, is_earlier
from proxy.page.layout import show_screen
from proxy.page.renderer import RENDERER
from proxy.page.screens.conversations import outline, render_parts, title_of
from proxy.protocol.params import check_branch_name
from storage import WindowRequest

if TYPE_CHECKING:
    from storage import Excerpt, Graph

#: Items of a side, at first and at most.
SIDE = 50
MAX_SIDE = 500
#: Items of what two branches share that are shown beside their difference.
SHARED = 3
#: Characters of a message that are compared word by word.
MAX_DIFF = 4096
#: Bytes that are searched, and read at a time.
MAX_SEARCHED = 24 * 1024 * 1024
SCANNED = 4 * 1024 * 1024
MAX_SOUGHT = 200


async def show_branches(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV/branches: the graph of segments; earlier=1 unfolds earlier versions, sort=use."""
    return await branches_screen(request, {})


async def branches_screen(request: web.Request, form: dict[str, Any], status: int = 200) -> web.Response:
    """Return the graph. form: a `problem` with a form that was sent from it."""
    store, owner = request.app[STORE], request[CALLER].owner
    conversation_id = path_conversation_id(request)
    conversation, graph, heads = await asyncio.gather(
        store.conversations.read(owner, conversation_id),
        store.branches.graph(owner, conversation_id),
        store.conversations.heads(owner, [conversation_id]),
    )
    earlier, sort = request.query.get("earlier") == "1", request.query.get("sort", "place")
    branches = BranchForest(graph, conversation_id, earlier=earlier, keep=graph.active_branch)
    nodes = outline(branches, graph.active_branch, by_use=sort == "use")
    spans = [row["node"].spans[0] for row in nodes if row["node"].spans]
    excerpts = await store.items.excerpts(owner, conversation_id, spans) if spans else []
    said = dict(zip(spans, excerpts, strict=True))
    return show_screen(
        request,
        "branches.html",
        status=status,
        conversation=conversation,
        title=title_of(conversation, heads.get(conversation_id)),
        active=graph.active_branch,
        rows=_nested(branches, nodes, said),
        total=len(graph.branches) + graph.more,
        more=graph.more,
        folded=branches.folded,
        shows_earlier=earlier,
        sort="use" if sort == "use" else "place",
        form=form,
    )


async def show_comparison(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV/compare: a, b, limit, diff (the number of a pair to compare word by word)."""
    store, owner, query = request.app[STORE], request[CALLER].owner, request.query
    conversation_id = path_conversation_id(request)
    first = check_branch_name(query.get("a") or "MAIN", "a")
    graph, conversation, heads = await asyncio.gather(
        store.branches.graph(owner, conversation_id),
        store.conversations.read(owner, conversation_id),
        store.conversations.heads(owner, [conversation_id]),
    )
    second = check_branch_name(query.get("b") or _another(graph, first), "b")
    limit = min(_number(query.get("limit"), SIDE), MAX_SIDE)
    comparison = await store.branches.compare(owner, conversation_id, first, second, limit)
    sides = [[card_of(item) for item in page.items] for page in (comparison.only_first, comparison.only_second)]
    ancestor = card_of(comparison.ancestor) if comparison.ancestor else None
    shared: list[Card] = []
    if ancestor:
        wanted = WindowRequest(branch=first, at=ancestor.id, limit=SHARED)
        window = await store.items.window(owner, conversation_id, wanted)
        shared = [card_of(item.data) for item in window.items if item.data and not item.is_cut]
    await render_parts(request, [part for card in (*sides[0], *sides[1], *shared) for part in card.parts])
    at = _number(query.get("diff"), -1)
    return show_screen(
        request,
        "compare.html",
        conversation=conversation,
        title=title_of(conversation, heads.get(conversation_id)),
        branches=graph.branches,
        a=first,
        b=second,
        shared=comparison.shared,
        ancestor=ancestor,
        ancestor_line=first_line(comparison.ancestor, 80) if comparison.ancestor else "",
        shared_cards=shared,
        sides=[
            {"key": key, "name": name, "cards": cards, "more": page.has_more}
            for key, name, cards, page in zip(
                "ab", (first, second), sides, (comparison.only_first, comparison.only_second), strict=True
            )
        ],
        paired=min(len(sides[0]), len(sides[1])),
        limit=limit,
        diff_at=at,
        diff=await _diff(request, sides[0], sides[1], at),
    )


async def show_hits(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV/search: q; what has it, on all branches."""
    store, owner = request.app[STORE], request[CALLER].owner
    conversation_id = path_conversation_id(request)
    sought = request.query.get("q", "").strip()[:MAX_SOUGHT]
    conversation, graph, heads = await asyncio.gather(
        store.conversations.read(owner, conversation_id),
        store.branches.graph(owner, conversation_id),
        store.conversations.heads(owner, [conversation_id]),
    )
    hits, is_cut = await _find(request, graph, sought) if sought else ([], False)
    return show_screen(
        request,
        "search.html",
        conversation=conversation,
        title=title_of(conversation, heads.get(conversation_id)),
        q=sought,
        hits=hits,
        is_cut=is_cut,
    )


async def _find(request: web.Request, graph: Graph, sought: str) -> tuple[list[dict[str, Any]], bool]:
    """Return what has the text, and whether there may be more."""
    items, owner = request.app[STORE].items, request[CALLER].owner
    conversation_id = path_conversation_id(request)
    hits, searched, after = list[dict[str, Any]](), 0, None
    while True:
        page = await items.scan(owner, conversation_id, after, SCANNED)
        texts = [item.data.decode("utf-8", "replace") for item in page.items if not item.is_cut]
        whole = [item for item in page.items if not item.is_cut]
        for number, title, before, there, behind in await request.app[RENDERER].search(sought, texts):
            item = whole[number]
            names = [one.name for one in graph.branches if covers(one.chain, (item.segment, item.offset))]
            if names:
                hits.append(
                    {"id": item.id, "title": title, "before": before, "there": there, "behind": behind}
                    | {"branch": names[0], "others": len(names) - 1}
                )
        searched += sum(map(len, texts))
        after = page.after
        if after is None or len(hits) >= MAX_HITS or searched >= MAX_SEARCHED:
            return hits[:MAX_HITS], after is not None or len(hits) > MAX_HITS


def _nested(
    branches: BranchForest, nodes: Sequence[dict[str, Any]], said: dict[Any, Excerpt | None]
) -> list[dict[str, Any]]:
    """Return the rows of a nested list: whether each opens a list below it, and how many it closes."""
    rows = []
    for row, following in zip(nodes, [*nodes[1:], None], strict=True):
        excerpt = said.get(row["node"].spans[0]) if row["node"].spans else None
        next_depth = following["depth"] if following else 0
        rows.append(
            row
            | {
                "text": first_line(excerpt.data, 90) if excerpt else "",
                "url": branches.url(row["newest"].name, excerpt.id) if excerpt else "",
                "ends": [
                    {"branch": branch, "own": own, "is_earlier": is_earlier(branch.name)}
                    for branch, own in zip(row["ends"], row["own"], strict=True)
                ],
                "is_active": row["is_here"],
                "opens": next_depth > row["depth"],
                "closes": max(0, row["depth"] - next_depth),
            }
        )
    return rows


async def _diff(request: web.Request, first: Sequence[Card], second: Sequence[Card], at: int) -> Any:
    if not 0 <= at < min(len(first), len(second)):
        return None
    texts = ["\n".join(part.text for part in card.parts)[:MAX_DIFF] for card in (first[at], second[at])]
    return await request.app[RENDERER].compare(*texts)


def _another(graph: Graph, name: str) -> str:
    """Return the branch that was used last beside one."""
    return next((one.name for one in graph.branches if one.name != name), name)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 6 else default
