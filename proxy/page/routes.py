"""Routes of the page."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web

from proxy.http.keys import Handler
from proxy.page import live, sign_in
from proxy.page.actions import asking, changes, filling
from proxy.page.guard import for_anybody, for_callers
from proxy.page.layout import ROOT_PATH, TEMPLATES, see_other
from proxy.page.screens import branches, conversations, responses

_CONVERSATION = "/ui/c/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"
_RESPONSE = "/ui/r/{response_id}"


async def enter(request: web.Request) -> web.StreamResponse:
    """GET / and /ui: where the page is. / is that for browsers only; what else asks there has a wrong base URL."""
    if request.path == "/" and "text/html" not in request.headers.get(hdrs.ACCEPT, ""):
        raise web.HTTPNotFound
    return see_other(ROOT_PATH)


async def send_static(request: web.Request) -> web.StreamResponse:
    """GET /ui/static/HASH/NAME."""
    return request.app[TEMPLATES].static(request.match_info["digest"], request.match_info["name"])


#: For those who may look.
_SHOWN: Mapping[str, Handler] = {
    ROOT_PATH: conversations.show_list,
    "/ui/go": conversations.show_anything,
    "/ui/r/": responses.show_responses,
    _RESPONSE: responses.show_response,
    f"{_RESPONSE}/json": responses.send_response,
    f"{_RESPONSE}/items/{{item_id}}/json": responses.send_response_item,
    f"{_RESPONSE}/items/{{item_id}}/pictures/{{number}}": responses.send_response_picture,
    _CONVERSATION: conversations.show_conversation,
    f"{_CONVERSATION}/branches": branches.show_branches,
    f"{_CONVERSATION}/compare": branches.show_comparison,
    f"{_CONVERSATION}/search": branches.show_hits,
    f"{_CONVERSATION}/export": changes.send_export,
    _ITEM: conversations.show_item,
    f"{_ITEM}/json": conversations.send_item,
    f"{_ITEM}/pictures/{{number}}": conversations.send_picture,
}
_DONE: Mapping[str, Handler] = {
    "/ui/new": asking.do_begin,
    "/ui/demo": filling.do_fill_in,
    f"{_RESPONSE}/turn": asking.do_go_on,
    f"{_CONVERSATION}/turn": asking.do_send,
    f"{_CONVERSATION}/edit": asking.do_edit,
    f"{_CONVERSATION}/regenerate": asking.do_regenerate,
    f"{_CONVERSATION}/stop": asking.do_stop,
    f"{_CONVERSATION}/fork": changes.do_fork,
    f"{_CONVERSATION}/activate": changes.do_activate,
    f"{_CONVERSATION}/rename": changes.do_rename,
    f"{_CONVERSATION}/delete-item": changes.do_delete_item,
    f"{_CONVERSATION}/delete-branch": changes.do_delete_branch,
    f"{_CONVERSATION}/delete": changes.do_delete_conversation,
}

ROUTES = [
    web.get("/", enter),
    web.get("/ui", enter),
    web.get("/ui/static/{digest}/{name}", for_anybody(send_static)),
    web.get("/ui/sign-in", for_anybody(sign_in.show_sign_in)),
    web.post("/ui/sign-in", for_anybody(sign_in.do_sign_in)),
    web.post("/ui/sign-out", for_anybody(sign_in.do_sign_out)),
    web.get("/ui/live", for_callers(live.list_events, plain=True)),
    web.get(f"{_CONVERSATION}/live", for_callers(live.conversation_events, plain=True)),
    *(web.get(path, for_callers(handler)) for path, handler in _SHOWN.items()),
    *(web.post(path, for_callers(handler)) for path, handler in _DONE.items()),
]
