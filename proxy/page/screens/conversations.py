"""Screens of conversations: their list, one in windows, one item, and where an id leads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.http.answers import path_conversation_id, path_item_id
from proxy.http.keys import CONFIG, STORE
from proxy.page.content.cards import card_of, first_line
from proxy.page.content.forest import covers
from proxy.page.content.pictures import decode_picture
from proxy.page.content.thread import BranchForest, Row, all_parts, rows_of
from proxy.page.layout import ROOT_PATH, see_other, show_screen
from proxy.page.live import state_of
from proxy.page.renderer import RENDERER
from proxy.protocol.errors import BadRequest, NotFound
from proxy.protocol.items import hide_sealed
from proxy.protocol.params import check_branch_name, check_id, read_branch_name
from storage import ItemNotFound, PageRequest, WatchedBranch, WindowRequest

if TYPE_CHECKING:
    from proxy.page.content.cards import CardPart
    from storage import Conversation, ConversationHead, Graph, Store, Window

#: Conversations, items and responses that a screen shows.
PAGE = 50
#: Rows of the outline beside a conversation.
OUTLINE = 24


async def show_list(request: web.Request) -> web.StreamResponse:
    """GET /ui/: by last activity; project, referrer, after."""
    return await list_screen(request, {})


async def list_screen(request: web.Request, form: dict[str, Any], status: int = 200) -> web.Response:
    """Return the list. form: the first message of a conversation that was sent, and the `problem` with it."""
    store, owner, query = request.app[STORE], request[CALLER].owner, request.query
    page, newest = await asyncio.gather(
        store.conversations.list_page(
            owner,
            PageRequest(limit=PAGE, after=query.get("after") or None),
            project_id=query.get("project") or None,
            referrer=query.get("referrer") or None,
        ),
        store.conversations.newest(owner, 1),
    )
    heads = await store.conversations.heads(owner, [one.id for one in page.conversations]) if page.conversations else {}
    filters = {name: query[name] for name in ("project", "referrer") if query.get(name)}
    return show_screen(
        request,
        "list.html",
        status=status,
        entries=[(one, title_of(one, heads.get(one.id)), heads.get(one.id)) for one in page.conversations],
        projects=_known((one.project_id for one in page.conversations), filters.get("project")),
        referrers=_known((one.referrer for one in page.conversations), filters.get("referrer")),
        filters=filters,
        is_first=not query.get("after"),
        older=f"?{urlencode({**filters, 'after': page.next_cursor})}" if page.next_cursor else "",
        newest=newest[0][1] if newest else 0,
        last=heads_lines(heads),
        model=default_model(request),
        form=form,
    )


async def show_conversation(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV: a window of a branch; branch, around, at, before, after."""
    return await conversation_screen(request, {})


async def conversation_screen(request: web.Request, form: dict[str, Any], status: int = 200) -> web.Response:
    """Return a conversation's screen. form: a message that was sent, and the `problem` with it."""
    store, owner = request.app[STORE], request[CALLER].owner
    conversation_id = path_conversation_id(request)
    wanted = _window_wanted(form or request.query)
    watched = WatchedBranch(owner, conversation_id, wanted.branch)
    conversation, graph, window, heads, (pulse,) = await asyncio.gather(
        store.conversations.read(owner, conversation_id),
        store.branches.graph(owner, conversation_id),
        _window(store, owner, conversation_id, wanted),
        store.conversations.heads(owner, [conversation_id]),
        store.watching.look([watched]),
    )
    branches = BranchForest(graph, conversation_id)
    rows, first_id = await rendered_rows(request, branches, window)
    return show_screen(
        request,
        "window.html" if request.query.get("part") == "items" else "conversation.html",
        status=status,
        conversation=conversation,
        title=title_of(conversation, heads.get(conversation_id)),
        model=last_model(rows) or default_model(request),
        outline=outline(BranchForest(graph, conversation_id, earlier=False, keep=window.branch), window.branch),
        **around(conversation, graph, window, rows, first_id),
        wanted=wanted,
        state=state_of(pulse) if pulse else "",
        form=form,
        problem=form.get("problem", ""),
    )


async def show_item(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV/items/ITEM: one item, its JSON, its branches, and what can be done with it."""
    return await item_screen(request, {}, 200, path_item_id(request))


async def item_screen(request: web.Request, form: dict[str, Any], status: int, item_id: str) -> web.Response:
    """Return an item's screen. form: what was sent from it, and the `problem` with that."""
    store, owner = request.app[STORE], request[CALLER].owner
    conversation_id = path_conversation_id(request)
    conversation, graph, found = await asyncio.gather(
        store.conversations.read(owner, conversation_id),
        store.branches.graph(owner, conversation_id),
        store.items.locate(owner, conversation_id, item_id),
    )
    data = hide_sealed([found.data])[0]
    card = card_of(found.data, alone=True)
    asked = request.query.get("render") == "1"
    await render_parts(request, card.parts, asked=asked)
    names = [one.name for one in graph.branches if any(covers(one.chain, place) for place in found.places)]
    branch = read_branch_name(request.query) or found.branch
    return show_screen(
        request,
        "item.html",
        status=status,
        conversation=conversation,
        title=conversation.title or conversation.id,
        card=card,
        json=card_json(data),
        size=len(found.data),
        names=names,
        branch=branch if branch in names else found.branch,
        graph=graph,
        found=found,
        form=form,
        model=found.model or default_model(request),
        text=text_to_edit(found.data),
        is_user=card.title == "user",
    )


async def send_item(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV/items/ITEM/json: an item as it is stored, as a file."""
    item = await request.app[STORE].items.read(
        request[CALLER].owner, path_conversation_id(request), path_item_id(request)
    )
    return attachment(item, f"{path_item_id(request)}.json", "application/json")


async def send_picture(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/CONV/items/ITEM/pictures/N, /ui/r/RESP/pictures/N/ITEM: a picture that is stored in an item."""
    item = await request.app[STORE].items.read(
        request[CALLER].owner, path_conversation_id(request), path_item_id(request)
    )
    return picture_answer(item, request.match_info["number"])


def picture_answer(item: bytes, number: str) -> web.Response:
    """Return an item's picture in a sandbox of its own. Raises NotFound."""
    picture = decode_picture(orjson.loads(item), int(number)) if len(number) < 4 and number.isdecimal() else None
    if picture is None:
        raise NotFound("There is no picture here that can be shown.")
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'", "Cache-Control": "private, max-age=3600"}
    return web.Response(body=picture.data, content_type=picture.type, headers=headers)


async def show_anything(request: web.Request) -> web.StreamResponse:
    """GET /ui/go: id; redirects to what it is of."""
    some_id = request.query.get("id", "").strip()
    check_id(some_id, "id")
    try:
        found = await request.app[STORE].items.find(request[CALLER].owner, some_id)
    except ItemNotFound:
        raise NotFound(f"Nothing of yours has the id '{some_id}'.") from None
    if found.kind == "conversation":
        return see_other(f"{ROOT_PATH}c/{some_id}")
    if found.kind == "response" or found.conversation_id is None:
        return see_other(f"{ROOT_PATH}r/{found.response_id or some_id}")
    query = urlencode({"branch": found.branch or "", "around": some_id})
    return see_other(f"{ROOT_PATH}c/{found.conversation_id}?{query}#i-{some_id}")


# --- what several screens have ------------------------------------------------------------------------------------


async def rendered_rows(request: web.Request, branches: BranchForest, window: Window) -> tuple[list[Row], str]:
    """Return a window's rows, their texts rendered, and the id of the first item of their branch."""
    spans = branches.fork_spans(window)
    items = request.app[STORE].items
    excerpts = await items.excerpts(request[CALLER].owner, branches.conversation_id, spans) if spans else []
    known = {span[:2]: one.id for span, one in zip(spans, excerpts, strict=True) if one is not None}
    rows = rows_of(window, branches, known)
    await render_parts(request, all_parts(rows))
    first = branches.first_place(window.line)
    return rows, known.get(first, "") if first else ""


async def render_parts(request: web.Request, parts: Iterable[CardPart], *, asked: bool = False) -> None:
    """Render the Markdown among parts."""
    sources = [part for part in parts if part.kind == "markdown"]
    if sources:
        texts = [part.text for part in sources]
        for part, html in zip(sources, await request.app[RENDERER].render(texts, asked=asked), strict=True):
            part.html = html


def around(
    conversation: Conversation, graph: Graph, window: Window, rows: Sequence[Row], first_id: str
) -> dict[str, Any]:
    """Return what the templates of a window are filled with. first_id: of the branch's first item."""
    return {
        "conversation_id": conversation.id,
        "rows": rows,
        "window": window,
        "branch": window.branch,
        "active": graph.active_branch,
        "branches": graph.branches,
        "more_branches": graph.more,
        "length": len(rows),
        "is_tip": window.later == 0 and window.line >= 0,
        "first_id": first_id,
    }


def outline(branches: BranchForest, current: str, *, by_use: bool = False) -> list[dict[str, Any]]:
    """Return the forest as rows: a node each, with the branches that end in it; depth from 0.

    current: the branch whose nodes are marked. by_use: what was used last first, else in the order of the places.
    """
    if by_use:
        order = {line: number for number, line in enumerate(branches.by_line)}
        for node in branches.forest.nodes():
            node.children.sort(key=lambda child: order[child.lines[0]])
    depths, rows = {id(branches.forest.root): 0}, list[dict[str, Any]]()
    here = branches.by_name.get(current)
    path = {id(node) for node in (branches.forest.path(here.line) if here else [])}
    for node in branches.forest.nodes():
        depth = depths[id(node)]
        is_hidden = node is branches.forest.root and not node.spans and not node.ends
        for child in node.children:
            depths[id(child)] = depth if is_hidden else depth + 1
        if not is_hidden:
            rows.append(
                {
                    "node": node,
                    "depth": depth,
                    "items": branches.forest.items(node),
                    "ends": [branches.by_line[line] for line in node.ends],
                    "own": [branches.forest.own_items(line) for line in node.ends],
                    "newest": branches.newest(node),
                    "is_here": id(node) in path,
                }
            )
    return rows


def title_of(conversation: Conversation, head: ConversationHead | None) -> str:
    """Return what a conversation is called: its title, else the first words of its first message."""
    if conversation.title:
        return conversation.title
    words = first_line(head.first.data, 80) if head is not None and head.first is not None else ""
    return words or "Empty conversation"


def heads_lines(heads: dict[str, ConversationHead]) -> dict[str, str]:
    """Return what each conversation's last message says."""
    return {one: first_line(head.last.data) for one, head in heads.items() if head.last is not None}


def last_model(rows: Sequence[Row]) -> str:
    """Return the model of the newest turn among rows, '' if there is none."""
    return next((row.turn.model for row in reversed(rows) if row.turn and row.turn.model), "")


def default_model(request: web.Request) -> str:
    """Return the model that a form names where nothing else tells: the built-in one where it is there."""
    return "echo" if request.app[CONFIG].upstream.url == "echo" else ""


def card_json(data: bytes, limit: int = 256 * 1024) -> str:
    """Return JSON for people, cut after so many characters."""
    return orjson.dumps(orjson.loads(data), option=orjson.OPT_INDENT_2).decode()[:limit]


def attachment(body: bytes, name: str, content_type: str) -> web.Response:
    """Return a file to be saved."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=body, content_type=content_type, headers=headers)


def text_to_edit(data: bytes) -> str | None:
    """Return a message's text for a form; None if it is none, or has more than text in it."""
    item = orjson.loads(data)
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or item.get("type", "message") != "message":
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "input_text"]
    whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "\n\n".join(map(str, texts)) if whole else None


async def _window(store: Store, owner: str, conversation_id: str, wanted: WindowRequest) -> Window:
    try:
        return await store.items.window(owner, conversation_id, wanted)
    except ItemNotFound as exc:
        raise NotFound(f"No item or response of this conversation has the id '{wanted.around or wanted.at}'.") from exc


def _window_wanted(query: Mapping[str, Any]) -> WindowRequest:
    names = {name: query.get(name, "") for name in ("around", "at", "before", "after")}
    for name in ("around", "at"):
        if names[name]:
            check_id(names[name], name)
    if names["around"] and (names["before"] or names["after"]):
        raise BadRequest("'around' can't be combined with 'before' or 'after'.", param="around")
    branch = query.get("branch")
    return WindowRequest(branch=check_branch_name(branch, "branch") if branch else "", limit=PAGE, **names)


def _known(values: Iterable[str | None], chosen: str | None) -> list[str]:
    return sorted({value for value in (*values, chosen) if value})
