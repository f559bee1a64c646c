"""Items in the store: append, list, read, delete, find by id."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.pieces import ItemPieces, again_if_torn
from storage.client.scripts import Call
from storage.client.staging import Stage
from storage.conversations import read_facts
from storage.envelope import InPieces, open_envelope
from storage.errors import StoreError
from storage.partitions import new_edition, partition_of
from storage.quotas import Ledger
from storage.records import Chain, Conversation, Entry, ItemPage, KnownItem, PageRequest
from storage.views.shapes import (
    MAX_SHOWN_BYTES,
    MAX_WINDOW_BODY_BYTES,
    SCAN_BYTES,
    Append,
    Excerpt,
    FoundId,
    ItemPlace,
    LocatedItem,
    PlacedItem,
    Scan,
    Window,
    WindowRequest,
)

#: Seconds that a repeat of the same append is recognised.
COMMIT_MARKER_SECONDS = 120


def page_arguments(page: PageRequest) -> list[Argument]:
    """Return a page as list_items takes it."""
    return [page.after or "", page.limit, "asc" if page.ascending else "desc"]


class Items:
    """Items of any owner's conversations; each call names the owner and sees nothing of others."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._ledger = Ledger(keyspace)
        self._pieces = ItemPieces(keyspace)

    async def append(
        self, owner: str, conversation_id: str, branch: str, entries: Sequence[Entry], most_items: int = 0
    ) -> list[bytes]:
        """Append entries to a branch ('' = the active one), all or none; return the items as stored.

        most_items: that the branch may have then; 0: any number. Raises ConversationNotFound, BranchNotFound,
        ItemNotFound, AlreadyThere, HistoryFull, BytesExceeded.
        """
        keys = self._keyspace.keys(conversation_id)
        await self._ledger.require(owner)
        token = secrets.token_hex(8)
        stage = Stage(self._keyspace, keys, token, entries)
        arguments = [owner, conversation_id, branch, COMMIT_MARKER_SECONDS, most_items, *stage.arguments]
        call = Call("append_items", [*keys.common, keys.commit(token), *stage.keys], arguments, conversation_id)
        facts, *items = await stage.run(call)
        await self._ledger.charge(owner, partition_of(conversation_id), token, stage.size, in_conversation=True)
        await self._keyspace.move_up(owner, read_facts(facts))
        return await stage.fill(owner, items)

    @again_if_torn
    async def list_page(
        self, owner: str, conversation_id: str, page: PageRequest, *, branch: str = "", at: str = ""
    ) -> ItemPage:
        """Return a page of a branch, as it is or as it was `at` an item (inclusive) or a response.

        Raises ConversationNotFound, BranchNotFound, ItemNotFound (for `at`), CursorNotFound.
        """
        keys = self._keyspace.keys(conversation_id)
        arguments: list[Argument] = [owner, "branch", conversation_id, branch, *page_arguments(page), at]
        call = Call("list_items", [*keys.common, keys.response("")], arguments, conversation_id)
        more, items = await self._scripts.run(call)
        return ItemPage(await self._pieces.items(owner, keys.partition, items), bool(more))

    @again_if_torn
    async def read(self, owner: str, conversation_id: str, item_id: str) -> bytes:
        """Return one item of a conversation, from any branch. Raises ConversationNotFound, ItemNotFound."""
        elements = await self._scripts.run(self._call("read_item", owner, conversation_id, item_id))
        return (await self._pieces.items(owner, partition_of(conversation_id), elements))[0]

    async def window(self, owner: str, conversation_id: str, wanted: WindowRequest) -> Window:
        """Return a part of a branch, deleted items too, with the appends that made it.

        Raises ConversationNotFound, BranchNotFound, ItemNotFound (for `at` and `around`: where it is on no branch, or
        not on this one), CursorNotFound, ResponseUnfinished (for `at`).
        """
        where = [wanted.branch, wanted.around, wanted.at, wanted.before, wanted.after]
        call = self._call(
            "window_items", owner, conversation_id, *where, wanted.limit, MAX_SHOWN_BYTES, MAX_WINDOW_BODY_BYTES
        )
        return _window(await self._scripts.run(call))

    async def excerpts(self, owner: str, conversation_id: str, spans: Chain) -> list[Excerpt | None]:
        """Return for each span how its first message begins, or its first item if there is none near its beginning.

        spans: at most `MOST_EXCERPTS`. Raises ConversationNotFound.
        """
        ends = [number for span in spans for number in span]
        return [Excerpt.of(told) for told in await self._view("excerpt_items", owner, conversation_id, *ends)]

    @again_if_torn
    async def locate(self, owner: str, conversation_id: str, item_id: str) -> LocatedItem:
        """Return an item with where it lies and what brought it. Raises ConversationNotFound, ItemNotFound."""
        reply = await self._scripts.run(self._call("locate_item", owner, conversation_id, item_id))
        element, listed, branch, response_id, model = reply
        (whole,) = await self._pieces.whole(owner, partition_of(conversation_id), [element])
        data, note = open_envelope(whole)
        numbers = [one.split(":") for one in listed.decode().split(",")]
        places = [(int(segment), int(offset)) for segment, offset in numbers]
        return LocatedItem(data, note, places, branch.decode(), response_id.decode() or None, model.decode())

    async def find(self, owner: str, some_id: str) -> FoundId:
        """Return what an id is and where it is: a conversation, a response or an item. Raises ItemNotFound."""
        keys = self._keyspace.keys(some_id)
        call = Call("find_id", [*keys.common, keys.response(some_id)], [owner, some_id], some_id)
        kind, conversation_id, branch, response_id = (part.decode() for part in await self._scripts.run(call))
        return FoundId(kind, conversation_id or None, branch or None, response_id or None)

    async def scan(
        self, owner: str, conversation_id: str, after: ItemPlace | None = None, limit_bytes: int = SCAN_BYTES
    ) -> Scan:
        """Return the next living items that branches of a conversation read, segment by segment.

        after: of the page before. Raises ConversationNotFound.
        """
        start = after or (0, 0)
        reply = await self._view("scan_items", owner, conversation_id, *start, limit_bytes, MAX_SHOWN_BYTES)
        segment, offset, found = reply
        items = [PlacedItem(one[0], one[1], -1, one[2], one[3]) for one in found]
        return Scan(items, (segment, offset) if offset >= 0 else None)

    async def delete(self, owner: str, conversation_id: str, item_id: str, *, branch: str = "") -> Conversation:
        """Remove one item for good, from all branches and snapshots; return the conversation.

        branch: that it must lie on, if any. Raises ConversationNotFound, BranchNotFound, ItemNotFound.
        """
        reply = await self._scripts.run(
            self._call("delete_item", owner, conversation_id, item_id, branch, new_edition())
        )
        conversation, freed = read_facts(reply[0]), int(reply[1])
        partition = partition_of(conversation_id)
        await self._ledger.charge(owner, partition, f"deleted:{item_id}", -freed, in_conversation=True)
        await self._keyspace.move_up(owner, conversation)
        return conversation

    @again_if_torn
    async def resolve(
        self, owner: str, item_ids: Sequence[str], here: Sequence[str] = (), partition: str = ""
    ) -> dict[str, KnownItem]:
        """Return those of the items that the owner has, by id, from whatever partitions they are in: one trip.

        here: ids that are looked for in `partition` too, whatever partition they name; what is there counts.
        """
        if not (item_ids or here):
            return {}
        calls, groups = self.resolve_calls(owner, item_ids)
        if here:
            calls.append(Call("resolve_items", self._keyspace.keys_of(partition).common, [owner, *here]))
            groups.append(list(here))
        replies = await self._scripts.run_all(calls)
        try:
            return collect(groups, replies)
        except InPieces:
            pass
        places = [partition_of(group[0]) for group in groups[: len(calls) - bool(here)]]
        return collect(groups, await self.whole(owner, [*places, partition], replies))

    async def whole(
        self, owner: str, partitions: Iterable[str], replies: Sequence[list[bytes] | StoreError]
    ) -> list[list[bytes] | StoreError]:
        """Return the replies to resolve_calls with whole elements, each of its partition. Raises Torn, Unavailable."""
        return [
            reply if isinstance(reply, StoreError) else await self._pieces.whole(owner, partition, reply)
            for partition, reply in zip(partitions, replies, strict=False)
        ]

    def resolve_calls(self, owner: str, item_ids: Sequence[str]) -> tuple[list[Call], list[list[str]]]:
        """Return one resolve_items call a partition, and the ids that each asks for."""
        ordered = sorted(set(item_ids), key=partition_of)
        groups = [list(group) for _, group in groupby(ordered, key=partition_of)]
        calls = [Call("resolve_items", self._keyspace.keys(group[0]).common, [owner, *group]) for group in groups]
        return calls, groups

    def _call(self, script: str, owner: str, conversation_id: str, *arguments: Argument) -> Call:
        keys = self._keyspace.keys(conversation_id).common
        return Call(script, keys, [owner, conversation_id, *arguments], conversation_id)

    async def _view(self, script: str, owner: str, conversation_id: str, *arguments: Argument) -> list[Any]:
        keys = self._keyspace.keys(conversation_id)
        call = Call(script, [keys.head, keys.conversation], [owner, conversation_id, *arguments], conversation_id)
        return await self._scripts.run(call)


def collect(groups: Sequence[Sequence[str]], replies: Sequence[list[bytes] | StoreError]) -> dict[str, KnownItem]:
    """Return id → item from the replies to resolve_calls; unknown ids are left out, of two answers the last counts.

    Raises InPieces.
    """
    known = {}
    for group, reply in zip(groups, replies, strict=True):
        if isinstance(reply, StoreError):
            raise reply
        for item_id, element in zip(group, reply, strict=True):
            if element:
                data, note = open_envelope(element)
                known[item_id] = KnownItem(data, note=note)
    return known


def _window(told: Sequence[Any]) -> Window:
    """Return what window_items tells."""
    branch, line, active_branch, running, first, length, earlier, later, spans, appends = told
    items = list(_placed(spans, first))
    return Window(
        branch=branch.decode(),
        line=line,
        items=items,
        appends=[_append(*one) for one in appends],
        first=first,
        length=length,
        earlier=earlier,
        later=later,
        before=_cursor(items[0]) if items and first else "",
        after=_cursor(items[-1]) if items and first + len(items) < length else "",
        active_branch=active_branch.decode(),
        running=running.decode() or None,
    )


def _placed(spans: Sequence[Sequence[Any]], number: int) -> Iterable[PlacedItem]:
    for segment, first, *elements in spans:
        for offset, element in enumerate(elements, first):
            data, size = element or (b"", 0)
            yield PlacedItem(segment, offset, number, data, size)
            number += 1


def _append(
    segment: int, end: int, response_id: bytes, model: bytes, status: bytes, created_at: bytes, body: bytes
) -> Append:
    # what no response made is named by its place
    made_by = None if response_id.startswith(b"@") else response_id.decode()
    made_at = int(created_at) if created_at else None
    return Append(segment, end, made_by, model.decode(), status.decode(), made_at, body)


def _cursor(item: PlacedItem) -> str:
    return f"{item.segment}.{item.offset}.{item.number}"
