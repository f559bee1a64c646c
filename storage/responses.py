"""Responses in the store: read, list what the model was given, delete, list the latest."""

from __future__ import annotations

from collections.abc import Sequence

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.pieces import ItemPieces, again_if_torn
from storage.client.scripts import Call
from storage.conversations import INDEX_DRIFT_MS, cursor_after, list_entries
from storage.errors import Missing, StoreError
from storage.items import page_arguments
from storage.quotas import Ledger
from storage.records import ItemPage, PageRequest, StoredResponse
from storage.views.shapes import MAX_LISTED_BODY_BYTES, Excerpt, RecentPage, RecentResponse


class Responses:
    """Responses of any owner; each call names the owner and sees nothing of others. A turn's commit writes them."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._ledger = Ledger(keyspace)
        self._pieces = ItemPieces(keyspace)

    @again_if_torn
    async def read(self, owner: str, response_id: str) -> StoredResponse:
        """Return a stored response. Raises ResponseNotFound."""
        keys = self._keyspace.keys(response_id)
        call = Call("read_response", [keys.head, keys.response(response_id)], [owner], response_id)
        body, output = await self._scripts.run(call)
        return StoredResponse(body, await self._pieces.items(owner, keys.partition, output))

    @again_if_torn
    async def list_input(self, owner: str, response_id: str, page: PageRequest) -> ItemPage:
        """Return a page of what the model was given for a response: its history, then its own input.

        Raises ResponseNotFound, CursorNotFound.
        """
        keys = self._keyspace.keys(response_id)
        arguments: list[Argument] = [owner, "response", response_id, "", *page_arguments(page), ""]
        call = Call("list_items", [*keys.common, keys.response(response_id)], arguments, response_id)
        more, items = await self._scripts.run(call)
        return ItemPage(await self._pieces.items(owner, keys.partition, items), bool(more))

    async def delete(self, owner: str, response_id: str) -> None:
        """Forget a response; what descends from it keeps its snapshot. Raises ResponseNotFound."""
        keys = self._keyspace.keys(response_id)
        names = [*keys.common, keys.response(response_id), keys.events(response_id), keys.event_pieces(response_id)]
        calls = [Call("delete_response", names, [owner], response_id)]
        if self._keyspace.listed_responses:
            calls.append(self._drop(owner, response_id, 0))
        reply = (await self._scripts.run_all(calls))[0]
        if isinstance(reply, StoreError):
            raise reply
        freed, everything = reply
        if everything:
            await self._ledger.forget(owner, keys.partition)
        else:
            await self._ledger.charge(owner, keys.partition, f"deleted:{response_id}", -freed, in_conversation=False)

    async def recent(self, owner: str, page: PageRequest) -> RecentPage:
        """Return a page of the owner's latest responses, newest first unless `page.ascending`; none if none are listed.

        page.after: the id of a response that is listed, or the `next_cursor` of the page before. Two round trips, one
        more for entries whose response is gone. Raises CursorNotFound.
        """
        listing = self._keyspace.owner(owner).responses
        found: list[tuple[RecentResponse, str]] = []
        cursor = page.after or ""
        while len(found) <= page.limit:
            wanted = page.limit + 1 - len(found)
            entries = await list_entries(self._scripts, listing, cursor, wanted, ascending=page.ascending)
            found += await self._summarize(owner, entries)
            if len(entries) < wanted:
                break
            cursor = cursor_after(*entries[-1])
        has_more = len(found) > page.limit
        shown = found[: page.limit]
        return RecentPage([one for one, _ in shown], has_more, shown[-1][1] if has_more and shown else None)

    async def _summarize(self, owner: str, entries: Sequence[tuple[str, int]]) -> list[tuple[RecentResponse, str]]:
        """Read the responses of a listing's entries, each with the cursor behind it; drop those that are gone."""
        calls = []
        for response_id, _ in entries:
            keys = self._keyspace.keys(response_id)
            arguments: list[Argument] = [owner, MAX_LISTED_BODY_BYTES]
            names = [keys.head, keys.response(response_id)]
            calls.append(Call("summarize_response", names, arguments, response_id))
        found, gone = [], []
        for (response_id, score), reply in zip(entries, await self._scripts.run_all(calls), strict=True):
            if isinstance(reply, Missing):
                gone.append(self._drop(owner, response_id, INDEX_DRIFT_MS))
                continue
            if isinstance(reply, StoreError):
                raise reply
            status, body, asked, answered = reply
            excerpts = Excerpt.of(asked), Excerpt.of(answered)
            summary = RecentResponse(response_id, score, status.decode(), body, *excerpts)
            found.append((summary, cursor_after(response_id, score)))
        await self._scripts.run_all(gone)
        return found

    def _drop(self, owner: str, response_id: str, least_age_ms: int) -> Call:
        return Call("drop_index", [self._keyspace.owner(owner).responses], [response_id, least_age_ms])
