"""Conversations in the store: create, read, update, delete, list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call, Scripts
from storage.client.staging import Stage
from storage.errors import CursorNotFound, Missing, StoreError, Unavailable
from storage.partitions import partition_of
from storage.quotas import Ledger
from storage.records import Conversation, ConversationPage, Entry, PageRequest
from storage.views.shapes import MOST_HEADS, ConversationHead, Excerpt

#: Most metadata pairs of a conversation (OpenAI's limit).
MAX_METADATA = 16
#: A listing is repaired where it is off by more than this; less is the time between the two writes of one change.
INDEX_DRIFT_MS = 5_000
#: Conversations deleted in one round trip.
DELETE_BATCH = 100
#: A conversation id, or `ConversationPage.next_cursor`: with the score that the conversation had.
_CURSOR = re.compile(r"[^@]+(@\d{1,16})?", re.ASCII)


def read_facts(flat: Sequence[bytes]) -> Conversation:
    """Return the conversation that a hash's fields and values describe."""
    fields: dict[str, Any] = {"metadata": {}}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        key, text = name.decode(), value.decode()
        if key.startswith("m:"):
            fields["metadata"][key[2:]] = text
        elif key != "deleted_at":
            fields[key] = int(text) if key in {"created_at", "updated_at"} else text
    return Conversation(**fields)


class Conversations:
    """Conversations of any owner; each call names the owner and sees nothing of others."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._ledger = Ledger(keyspace)

    async def create(
        self, owner: str, draft: Conversation, entries: Sequence[Entry]
    ) -> tuple[Conversation, list[bytes]]:
        """Create `draft` (its times are ignored) with its first items; return both as stored.

        Raises ItemNotFound, QuotaExceeded, BytesExceeded.
        """
        metadata = [part for pair in draft.metadata.items() for part in pair]
        facts = [owner, draft.id, draft.title or "", draft.project_id or "", draft.referrer or ""]
        await self._ledger.require(owner)
        keys = self._keyspace.keys(draft.id)
        stage = Stage(self._keyspace, keys, draft.id, entries)
        arguments = [*facts, len(draft.metadata), *metadata, *stage.arguments]
        call = Call("create_conversation", [*keys.common, *stage.keys], arguments, draft.id)
        touch = self._keyspace.touch(owner, draft.id, draft.project_id, draft.referrer)
        if (reserve := self._keyspace.reserve(owner, draft.id)) is not None:
            await self._scripts.run(reserve)
        # The listing first: an entry without its conversation is repaired when read; the reverse is never seen.
        _, reply = await stage.run_all([touch, call])
        if isinstance(reply, StoreError):
            await self._scripts.run(self._keyspace.drop(owner, draft.id, draft.project_id, draft.referrer))
            raise reply
        await self._ledger.charge(owner, partition_of(draft.id), draft.id, stage.size, in_conversation=True)
        created_at, updated_at, *items = reply
        return (
            Conversation(
                id=draft.id,
                created_at=created_at,
                updated_at=updated_at,
                title=draft.title,
                project_id=draft.project_id,
                referrer=draft.referrer,
                metadata=draft.metadata,
            ),
            await stage.fill(owner, items),
        )

    async def read(self, owner: str, conversation_id: str) -> Conversation:
        """Return one conversation. Raises ConversationNotFound."""
        reply = await self._scripts.run(self._read_call(owner, conversation_id))
        return read_facts(reply[0])

    async def update(self, owner: str, conversation_id: str, changes: Mapping[str, str | None]) -> Conversation:
        """Set or (None) clear title, project_id, referrer and metadata (`m:<key>`); return the result.

        Raises ConversationNotFound, TooManyMetadata.
        """
        keys = self._keyspace.keys(conversation_id)
        arguments: list[Argument] = [owner, conversation_id, MAX_METADATA, len(changes)]
        for name, value in changes.items():
            arguments += [name, "-" if value is None else "=" + value]
        call = Call("update_conversation", [keys.head, keys.conversation], arguments, conversation_id)
        before, after = (read_facts(flat) for flat in await self._scripts.run(call))
        listings = self._keyspace.owner(owner)
        left = set(listings.listings(before.project_id, before.referrer))
        left -= set(listings.listings(after.project_id, after.referrer))
        calls = [self._keyspace.touch(owner, after.id, after.project_id, after.referrer)]
        if left:
            calls.append(Call("drop_index", sorted(left), [conversation_id, 0]))
        try:
            await self._scripts.run_all(calls)
        except Unavailable as error:
            # it is changed, and perhaps not in the listing that it belongs to now: a repeat puts that right
            error.unsure = True
            raise
        return after

    async def heads(self, owner: str, conversation_ids: Sequence[str]) -> dict[str, ConversationHead]:
        """Return what a list shows of conversations, by id, without those that are not there; one round trip.

        conversation_ids: at most `views.shapes.MOST_HEADS`.
        """
        calls = []
        for one in conversation_ids:
            keys = self._keyspace.keys(one)
            calls.append(Call("read_head", [keys.head, keys.conversation, keys.branches], [owner, one], one))
        found = {}
        for one, reply in zip(conversation_ids, await self._scripts.run_all(calls), strict=True):
            if isinstance(reply, Missing):
                continue
            if isinstance(reply, StoreError):
                raise reply
            items, branches, model, first, last, running = reply
            head = ConversationHead(
                items, branches, model.decode(), Excerpt.of(first), Excerpt.of(last), running.decode() or None
            )
            found[one] = head
        return found

    async def newest(self, owner: str, limit: int = MOST_HEADS) -> list[tuple[str, int]]:
        """Return the ids of the conversations that were used last, each with when that was listed, in ms.

        One of them may be gone already.
        """
        return await list_entries(self._scripts, self._keyspace.owner(owner).conversations, "", limit, ascending=False)

    async def delete(self, owner: str, conversation_id: str) -> None:
        """Hide a conversation and its items at once. Raises ConversationNotFound."""
        facts, digests = await self._scripts.run(self._delete_call(owner, conversation_id))
        await self._ledger.forget(owner, partition_of(conversation_id))
        # it is gone: a listing that still names it drops it when it is read
        with suppress(Unavailable):
            await self._scripts.run_all(self._drop_calls(owner, read_facts(facts), digests))

    async def delete_all(self, owner: str) -> int:
        """Delete every conversation of the owner; return how many there were."""
        listing = self._keyspace.owner(owner).conversations
        deleted, cursor = 0, ""
        while entries := await list_entries(self._scripts, listing, cursor, DELETE_BATCH, ascending=True):
            replies = await self._scripts.run_all([self._delete_call(owner, one) for one, _ in entries])
            drops = []
            for (conversation_id, _), reply in zip(entries, replies, strict=True):
                if isinstance(reply, Missing):
                    drops.append(_repair_call(listing, conversation_id))
                elif isinstance(reply, StoreError):
                    raise reply
                else:
                    deleted += 1
                    await self._ledger.forget(owner, partition_of(conversation_id))
                    drops += self._drop_calls(owner, read_facts(reply[0]), reply[1])
            await self._scripts.run_all(drops)
            cursor = cursor_after(*entries[-1])
        return deleted

    async def list_page(
        self, owner: str, page: PageRequest, *, project_id: str | None = None, referrer: str | None = None
    ) -> ConversationPage:
        """Return a page of the owner's conversations by last activity, newest first unless `page.ascending`.

        page.after: a conversation id, or the `next_cursor` of the page before, which stays in place when its
        conversation moves. Two round trips, one more for each entry that had to be repaired or filtered out.
        Raises CursorNotFound.
        """
        listings = self._keyspace.owner(owner)
        listing = listings.conversations
        if referrer:
            listing = listings.referrer(referrer)
        if project_id:
            listing = listings.project(project_id)
        found: list[tuple[Conversation, int]] = []
        cursor = page.after or ""
        while len(found) <= page.limit:
            wanted = page.limit + 1 - len(found)
            entries = await list_entries(self._scripts, listing, cursor, wanted, ascending=page.ascending)
            for conversation, score in await self._read_entries(owner, listing, entries):
                if conversation.referrer == (referrer or conversation.referrer):
                    found.append((conversation, score))
            if len(entries) < wanted:
                break
            cursor = cursor_after(*entries[-1])
        shown = found[: page.limit]
        has_more = len(found) > page.limit
        last = cursor_after(shown[-1][0].id, shown[-1][1]) if has_more else None
        return ConversationPage([conversation for conversation, _ in shown], has_more, last)

    async def _read_entries(
        self, owner: str, listing: str, entries: Sequence[tuple[str, int]]
    ) -> list[tuple[Conversation, int]]:
        """Read the conversations of a listing's entries; repair the listing where it is wrong."""
        if not entries:
            return []
        replies = await self._scripts.run_all([self._read_call(owner, one) for one, _ in entries])
        found, repairs = [], []
        for (conversation_id, score), reply in zip(entries, replies, strict=True):
            if isinstance(reply, Missing):
                repairs.append(_repair_call(listing, conversation_id))
                continue
            if isinstance(reply, StoreError):
                raise reply
            conversation = read_facts(reply[0])
            if listing not in self._keyspace.owner(owner).listings(conversation.project_id, conversation.referrer):
                repairs.append(_repair_call(listing, conversation_id))
                continue
            found.append((conversation, score))
            if abs(conversation.updated_at - score) > INDEX_DRIFT_MS:
                repairs.append(Call("correct_index", [listing], [conversation_id, conversation.updated_at]))
        if repairs:
            await self._scripts.run_all(repairs)
        return found

    def _read_call(self, owner: str, conversation_id: str) -> Call:
        keys = self._keyspace.keys(conversation_id)
        return Call("read_conversation", [keys.head, keys.conversation], [owner, conversation_id], conversation_id)

    def _delete_call(self, owner: str, conversation_id: str) -> Call:
        arguments: list[Argument] = [owner, conversation_id, self._keyspace.retention_seconds]
        return Call("delete_conversation", self._keyspace.keys(conversation_id).common, arguments, conversation_id)

    def _drop_calls(self, owner: str, conversation: Conversation, digests: Sequence[bytes]) -> list[Call]:
        """Return what takes a deleted conversation out of its listings, and what led to it away."""
        calls = [self._keyspace.drop(owner, conversation.id, conversation.project_id, conversation.referrer)]
        if names := sorted({name.decode() for name in digests}):
            calls += self._keyspace.drop_digests(owner, partition_of(conversation.id), names)
        return calls


def _repair_call(listing: str, conversation_id: str) -> Call:
    return Call("drop_index", [listing], [conversation_id, INDEX_DRIFT_MS])


def cursor_after(member: str, score: int) -> str:
    """Return the cursor that goes on behind an entry of a listing, wherever that is then."""
    return f"{member}@{score}"


async def list_entries(
    scripts: Scripts, listing: str, cursor: str, wanted: int, *, ascending: bool
) -> list[tuple[str, int]]:
    """Return the entries of a listing behind a cursor ('' = from the start), each with its score in ms.

    cursor: an entry that is listed, or what `cursor_after` gave. Raises CursorNotFound.
    """
    if cursor and not _CURSOR.fullmatch(cursor):
        raise CursorNotFound(cursor)
    cursor_id, _, score = cursor.partition("@")
    arguments: list[Argument] = ["asc" if ascending else "desc", wanted, cursor_id, score]
    flat = (await scripts.run(Call("list_index", [listing], arguments, cursor)))[0]
    return [(flat[i].decode(), int(float(flat[i + 1]))) for i in range(0, len(flat), 2)]
