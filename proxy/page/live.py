"""Live: what changes while somebody looks, as server-sent events: of one branch, and of the list of conversations.

    change   what to load anew; its number comes back as Last-Event-ID, so that whoever was away misses nothing
    running  a response is being made on the branch; from here on its text is told from the beginning
    delta    a piece of that text
    done     it has ended, and is stored if it is to be
    gone     there is no such conversation any more

docs/storage.md says how a turn that is watched differs from others: it keeps its events, and that is all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from proxy.auth.caller import CALLER
from proxy.http.delivery import HttpDelivery
from proxy.http.keys import CONFIG, STORE
from proxy.page.content.deltas import deltas_in
from proxy.page.hub import HUB
from proxy.protocol import sse
from proxy.protocol.errors import BadRequest
from proxy.protocol.params import check_id
from proxy.streams.event_log import split_frames
from proxy.streams.follower import FOLLOWERS, Broken, frames_from
from storage import EventQuery, ResponseNotFound, StoreError, WatchedBranch

if TYPE_CHECKING:
    from proxy.page.hub import Hub, Listing, Sighting
    from proxy.streams.follower import Followers
    from storage import EventPage, Pulse, Store

#: Most digits of a state of the list.
MAX_STATE_DIGITS = 16
#: The fields of a state, by what is told of them.
_PARTS = {"tip": "tip", "branches": "branch_count", "title": "title", "active": "active_branch"}

logger = logging.getLogger(__name__)


def state_of(pulse: Pulse) -> str:
    """Return the number of a state of a conversation's branch: the same for what looks the same, in every process."""
    seen = (pulse.updated_at, pulse.active_branch, pulse.title, pulse.branch_count, pulse.tip)
    return blake2b(repr(seen).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def live_event(name: str, data: Mapping[str, Any], number: str = "") -> bytes:
    """Return an event as a frame. number: of the state that it tells, '' for none."""
    head = f"id: {number}\n" if number else ""
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), head.encode(), orjson.dumps(data))


@dataclass
class _Following:
    """A response whose text is told. number: of the next of its events. generation: of its log, '' before any."""

    query: EventQuery
    generation: str = ""
    page: asyncio.Task[EventPage] | None = None


class BranchView:
    """One watcher's view of a branch. state: the number of what it shows, '' for nothing."""

    def __init__(self, store: Store, hub: Hub, followers: Followers, owner: str, state: str) -> None:
        self._store = store
        self._hub = hub
        self._followers = followers
        self._owner = owner
        self._state = state
        self._shown: Pulse | None = None
        self._running: tuple[str | None, bool] = (None, False)
        self._following: _Following | None = None

    async def events(self, watched: Sighting[Pulse | None]) -> AsyncGenerator[bytes]:
        """Yield frames as they come, until the conversation is gone or the server stops."""
        try:
            while not self._hub.stopped:
                changed = watched.changed
                pulse = watched.now
                if pulse is None:
                    yield live_event("gone", {})
                    return
                if frames := await self._tell(pulse):
                    yield frames
                async with aclosing(self._follow_until(changed)) as pieces:
                    async for frames in pieces:
                        yield frames
        finally:
            self._let_go()

    async def _tell(self, pulse: Pulse) -> bytes:
        """Return what is new, compared with what was shown last."""
        frames = []
        if (state := state_of(pulse)) != self._state:
            frames.append(live_event("change", self._change(pulse), state))
            self._state = state
        self._shown = pulse
        before, running = self._running[0], (pulse.running, pulse.followable)
        if before is not None and before != pulse.running:
            self._let_go()
            frames.append(live_event("done", await self._end(before)))
        if running != self._running:
            self._running = running
            if pulse.running is not None:
                frames.append(live_event("running", {"response": pulse.running, "followable": pulse.followable}))
                self._follow(pulse)
        return b"".join(frames)

    def _change(self, pulse: Pulse) -> dict[str, Any]:
        shown = self._shown
        changed = [name for name, part in _PARTS.items() if not shown or getattr(shown, part) != getattr(pulse, part)]
        tip = pulse.tip
        return {
            "updated_at": pulse.updated_at,
            "active_branch": pulse.active_branch,
            "branches": pulse.branch_count,
            "title": pulse.title,
            "tip": f"{tip[0]}.{tip[1]}" if tip else None,
            # an item was deleted, or something happened on another branch
            "changed": changed or ["activity"],
        }

    async def _end(self, response_id: str) -> dict[str, Any]:
        """Return how a response ended; a status of None: it is not kept."""
        try:
            body = orjson.loads((await self._store.responses.read(self._owner, response_id)).body)
        except (ResponseNotFound, orjson.JSONDecodeError):
            failure = self._hub.failure(response_id)
            error = {"code": failure.to_dict()["code"], "message": failure.message} if failure else None
            return {"response": response_id, "status": None, "error": error}
        return {"response": response_id, "status": body.get("status"), "error": body.get("error")}

    def _follow(self, pulse: Pulse) -> None:
        if pulse.followable and pulse.running and self._following is None:
            self._following = _Following(EventQuery(self._owner, pulse.running, 0))

    def _let_go(self) -> None:
        if self._following is not None and self._following.page is not None:
            self._following.page.cancel()
        self._following = None

    async def _follow_until(self, changed: asyncio.Event) -> AsyncGenerator[bytes]:
        """Yield the pieces of the running response until something changes."""
        waiting = asyncio.ensure_future(changed.wait())
        try:
            while not waiting.done():
                following, awaited = self._following, {waiting}
                if following is not None:
                    following.page = following.page or asyncio.ensure_future(self._followers.next(following.query))
                    awaited.add(following.page)  # type: ignore[arg-type]
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if following is not None and following.page is not None and following.page.done():
                    page, following.page = following.page, None
                    if frames := self._pieces(following, page):
                        yield frames
        finally:
            waiting.cancel()

    def _pieces(self, following: _Following, done: asyncio.Task[EventPage]) -> bytes:
        """Return what a page of the log tells; at its end there is no more to follow."""
        response_id, number = following.query.response_id, following.query.first_number
        try:
            page = done.result()
        except (Broken, StoreError) as reason:
            logger.debug("the text of %s is told no further: %s", response_id, type(reason).__name__)
            self._following = None
            return b""
        begun_anew = b""
        if following.generation not in ("", "-", page.generation):
            number, begun_anew = 0, live_event("running", {"response": response_id, "followable": True})
        following.generation = page.generation
        if page.ended or not page.running:
            self._following = None
        if not page.batches:
            return begun_anew
        following.query = EventQuery(self._owner, response_id, page.batches[-1].next_number)
        frames = split_frames(frames_from(page.batches, number))
        pieces = [live_event("delta", {"response": response_id, **piece}) for piece in deltas_in(frames)]
        return begun_anew + b"".join(pieces)


async def conversation_events(request: web.Request) -> web.StreamResponse:
    """GET /ui/c/{conversation_id}/live: a branch as it changes. `branch`: '' for the active one; `since`: its state."""
    conversation_id = request.match_info["conversation_id"]
    check_id(conversation_id, "conversation_id")
    app, owner = request.app, request[CALLER].owner
    state = request.headers.get("Last-Event-ID") or request.query.get("since", "")
    view = BranchView(app[STORE], app[HUB], app[FOLLOWERS], owner, state)
    branch = WatchedBranch(owner, conversation_id, request.query.get("branch", ""))
    async with app[HUB].watch(branch) as watched:
        return await _send(request, view.events(watched))


async def list_events(request: web.Request) -> web.StreamResponse:
    """GET /ui/live: how many conversations were used since the list was made. `since`: its state."""
    owner = request[CALLER].owner
    since = _read_state(request.query.get("since", ""))
    shown = _read_state(request.headers.get("Last-Event-ID", ""))
    hub = request.app[HUB]
    async with hub.watch_list(owner) as watched:
        return await _send(request, _newer(hub, watched, since, shown))


async def _newer(hub: Hub, watched: Sighting[Listing], since: int | None, shown: int | None) -> AsyncGenerator[bytes]:
    """Yield how many conversations are newer than a state, whenever that changes. None: than now."""
    since = max((score for _, score in watched.now), default=0) if since is None else since
    while not hub.stopped:
        changed = watched.changed
        newest = max((score for _, score in watched.now), default=0)
        newer = [conversation_id for conversation_id, score in watched.now if score > since]
        if newer and newest != shown:
            shown = newest
            yield live_event("change", {"newer": len(newer), "conversations": newer}, str(newest))
        await changed.wait()


async def _send(request: web.Request, frames: AsyncGenerator[bytes]) -> web.StreamResponse:
    """Send frames as they come until there are no more, or their client has left."""
    delivery = HttpDelivery(request, request.app[CONFIG].server.unread_seconds)
    # a client that leaves ends what it follows, now and not some time
    async with aclosing(frames), request.app[FOLLOWERS].stream(delivery):
        # the head goes out at once, however long nothing happens
        await delivery.send(sse.comment("events follow"))
        async for some in frames:
            if not await delivery.send(some):
                break
        return await delivery.finish()


def _read_state(text: str) -> int | None:
    """Return a state of the list, None for ''. Raises BadRequest."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_STATE_DIGITS):
        raise BadRequest("Invalid 'since': expected the number of a state.", param="since", code="invalid_value")
    return int(text)
