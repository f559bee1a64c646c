"""Routes of the page at /ui."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from proxy.http.keys import Handler
from proxy.page import actions, asking, branch_views, demo_action, live, response_views, sign_in, views
from proxy.page.guard import guarded, opened
from proxy.page.layout import LAYOUT, ROOT_PATH, see_other

_CONVERSATION = "/ui/c/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"
_RESPONSE = "/ui/r/{response_id}"


async def enter(request: web.Request) -> web.StreamResponse:
    """GET / and /ui: where the page is."""
    return see_other(ROOT_PATH)


async def send_static(request: web.Request) -> web.StreamResponse:
    """GET /ui/static/HASH/NAME."""
    return request.app[LAYOUT].static(request.match_info["digest"], request.match_info["name"])


#: For those who may look.
_SHOWN: Mapping[str, Handler] = {
    ROOT_PATH: views.list_conversations,
    "/ui/go": views.go,
    "/ui/live": live.list_events,
    "/ui/r/": response_views.list_responses,
    _RESPONSE: response_views.show_response,
    f"{_RESPONSE}/json": response_views.send_response,
    f"{_RESPONSE}/items/{{item_id}}/json": response_views.send_response_item,
    f"{_RESPONSE}/items/{{item_id}}/pictures/{{number}}": response_views.send_response_picture,
    _CONVERSATION: views.show_conversation,
    f"{_CONVERSATION}/branches": branch_views.show_branches,
    f"{_CONVERSATION}/compare": branch_views.compare,
    f"{_CONVERSATION}/search": branch_views.search,
    f"{_CONVERSATION}/export": actions.export,
    f"{_CONVERSATION}/live": live.conversation_events,
    _ITEM: views.show_item,
    f"{_ITEM}/json": views.send_item,
    f"{_ITEM}/pictures/{{number}}": views.send_picture,
}
_DONE: Mapping[str, Handler] = {
    "/ui/new": asking.begin_conversation,
    "/ui/demo": demo_action.fill_in,
    f"{_RESPONSE}/turn": asking.go_on,
    f"{_CONVERSATION}/turn": asking.send,
    f"{_CONVERSATION}/edit": asking.edit,
    f"{_CONVERSATION}/regenerate": asking.regenerate,
    f"{_CONVERSATION}/stop": asking.stop,
    f"{_CONVERSATION}/fork": actions.fork,
    f"{_CONVERSATION}/activate": actions.activate,
    f"{_CONVERSATION}/rename": actions.rename,
    f"{_CONVERSATION}/delete-item": actions.delete_item,
    f"{_CONVERSATION}/delete-branch": actions.delete_branch,
    f"{_CONVERSATION}/delete": actions.delete_conversation,
}

ROUTES = [
    web.get("/", enter),
    web.get("/ui", enter),
    web.get("/ui/static/{digest}/{name}", opened(send_static)),
    web.get("/ui/sign-in", opened(sign_in.show_sign_in)),
    web.post("/ui/sign-in", opened(sign_in.sign_in)),
    web.post("/ui/sign-out", opened(sign_in.sign_out)),
    *(web.get(path, guarded(handler)) for path, handler in _SHOWN.items()),
    *(web.post(path, guarded(handler)) for path, handler in _DONE.items()),
]
