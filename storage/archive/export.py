"""Export: a conversation read out of the store, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from storage.archive.coverage import Coverage
from storage.calls import CallMark
from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.pieces import ItemPieces, again_if_torn
from storage.client.scripts import Call
from storage.client.values import FIELD_BREAK, place_of, read_chain, split_calls
from storage.conversations import read_facts
from storage.envelope import open_envelope
from storage.records import ArchivedAppend, ArchivedBranch, ArchivedItem, ArchivedResponse, Chain

#: Items, and entries of the journal, that are read in one call at most; and bytes after which a call stops.
PAGE_ITEMS = 500
PAGE_BYTES = 1024 * 1024
#: Seconds that what is exported is kept from the moment on that it was last looked at.
HOLD_SECONDS = 3600


class Export:
    """A conversation as it was when the export began. Read `appends` to their end before `items`.

    What is appended later is left out; an item that is deleted meanwhile comes as a deleted one.
    """

    def __init__(self, keyspace: Keyspace, owner: str, conversation_id: str, outline: Sequence[Any]) -> None:
        self._scripts = keyspace.scripts
        self._pieces = ItemPieces(keyspace)
        self._keys = keyspace.keys(conversation_id)
        self._who: list[Argument] = [owner, conversation_id]
        facts, self._next_segment, *branches = outline
        self.conversation = read_facts(facts)
        self.branches = [_read_branch(one) for one in branches]
        self._coverage = Coverage()
        for branch in self.branches:
            self._coverage.add(branch.chain)
        #: What each branch had written of its own segment.
        self._written = {one.line: self._coverage.length(one.line) for one in self.branches}
        self._read = {segment: self._coverage.length(segment) for segment in self._coverage.segments} | self._written

    async def appends(self) -> AsyncIterator[list[ArchivedAppend]]:
        """Yield the journal in pages: what branches read, and the responses that are still there.

        Raises ConversationNotFound when the conversation is deleted meanwhile.
        """
        score, skip = 0, 0
        while True:
            limits: list[Argument] = [score, skip, PAGE_ITEMS, PAGE_BYTES, HOLD_SECONDS]
            rows = await self._run("export_appends", [self._keys.conversation], limits)
            if not rows:
                return
            for row in rows:
                at = int(float(row[0]))
                score, skip = at, skip + 1 if at == score else 1
            yield [append for row in rows if (append := self._select(row))]

    async def items(self) -> AsyncIterator[list[ArchivedItem]]:
        """Yield the items of every segment from offset 0 on, without gaps, in pages.

        Raises ConversationNotFound when the conversation is deleted meanwhile.
        """
        for segment in self._coverage.segments:
            at = 0
            for start, stop in self._coverage.ranges(segment):
                while at < stop:
                    if at < start:
                        page = [ArchivedItem(segment, one, b"") for one in range(at, min(start, at + PAGE_ITEMS))]
                    else:
                        page = await self._read_items(segment, at, min(stop, at + PAGE_ITEMS))
                    at += len(page)
                    yield page

    @again_if_torn
    async def _read_items(self, segment: int, start: int, stop: int) -> list[ArchivedItem]:
        keys = [self._keys.conversation, self._keys.index]
        flat = await self._run("export_items", keys, [segment, start, stop, PAGE_BYTES])
        elements = await self._pieces.whole(str(self._who[0]), self._keys.partition, flat[::2])
        return [
            _read_item(segment, start + i, element, mark)
            for i, (element, mark) in enumerate(zip(elements, flat[1::2], strict=True))
        ]

    def _select(self, row: Sequence[Any]) -> ArchivedAppend | None:
        """Return a journal entry if it belongs to what was there when the export began."""
        score, entry, *stored = row
        segment, end = place_of(float(score))
        response = _read_response(stored) if stored else None
        chains = [response.snapshot, response.context, response.output] if response else []
        if segment >= self._next_segment or end > self._written.get(segment, end):
            return None
        if any(self._is_later(chain) for chain in chains):
            return None
        if response is None and end > self._read.get(segment, -1):
            return None
        for chain in chains:
            self._coverage.add(chain)
        text: str = entry.decode()
        made_by, _, rest = text.partition(FIELD_BREAK)
        model, _, pending = rest.rpartition(FIELD_BREAK)
        return ArchivedAppend(
            segment=segment,
            # what follows a response's own items may be read by nobody
            end=min(end, self._coverage.length(segment)),
            id=None if made_by.startswith("@") else made_by,
            model=model,
            pending=split_calls(pending),
            response=response,
        )

    def _is_later(self, chain: Chain) -> bool:
        """Tell whether a chain reads what a branch has got since."""
        return any(
            segment >= self._next_segment or stop > self._written.get(segment, stop) for segment, _, stop in chain
        )

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        return await self._scripts.run(
            Call(script, [self._keys.head, *keys], [*self._who, *arguments], str(self._who[1]))
        )


def _read_item(segment: int, offset: int, element: bytes, mark: bytes | None) -> ArchivedItem:
    data, note = open_envelope(element)
    return ArchivedItem(segment, offset, data, None if mark is None else CallMark.parse(mark.decode()), note=note)


def _read_branch(reply: Sequence[Any]) -> ArchivedBranch:
    line, chain, *flat = reply
    fields: Mapping[str, str] = {
        name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
    return ArchivedBranch(
        line=line,
        name=fields["name"],
        chain=read_chain(chain),
        pending=split_calls(fields["pending"]),
        created_at=int(fields["created_at"]),
        updated_at=int(fields["updated_at"]),
        parent=int(fields["parent"]) if "parent" in fields else None,
        forked_at=int(fields["forked_at"]) if "forked_at" in fields else None,
        forked_from=fields.get("forked_from"),
        description=fields.get("description"),
        mixed="mixed" in fields,
    )


def _read_response(stored: Sequence[bytes]) -> ArchivedResponse:
    status, body, snapshot, context, output, pending, created_at = stored
    return ArchivedResponse(
        status=status.decode(),
        body=body,
        snapshot=read_chain(snapshot),
        context=read_chain(context),
        output=read_chain(output),
        pending=split_calls(pending.decode()),
        created_at=int(created_at),
    )
