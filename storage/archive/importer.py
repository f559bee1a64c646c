"""Import: a conversation written into the store, a page at a time, seen by nobody before it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import TypeVar

from storage.archive.export import PAGE_BYTES, PAGE_ITEMS
from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.pieces import part
from storage.client.scripts import Call
from storage.client.staging import BRING_ATTEMPTS, bring_pieces
from storage.client.values import join_calls
from storage.conversations import read_facts
from storage.envelope import wrap
from storage.errors import Unavailable, Unstaged
from storage.quotas import Ledger
from storage.records import (
    ArchivedAppend,
    ArchivedBranch,
    ArchivedItem,
    Chain,
    Conversation,
    Entry,
    ImportSource,
    Origin,
)

Part = TypeVar("Part")

#: Seconds that an import which was broken off can be gone on with.
UNFINISHED_SECONDS = 86_400
#: Branches that are written in one call.
BRANCHES = 50


class Importer:
    """One import. base: what is added to the source's segment numbers."""

    def __init__(self, keyspace: Keyspace, owner: str, source: ImportSource, base: int) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._owner = owner
        self._source = source
        self._base = base
        self._keys = keyspace.keys(source.conversation.id)
        self._size = 0
        #: How far responses read in each segment.
        self._reach: dict[int, int] = {}

    async def run(self) -> Conversation:
        """Write everything, make it live, and return the conversation.

        Branches come first: while they are not linked to names, they keep the items from being found.
        Raises Conflict when another import has taken this one's place, or what it wrote has expired.
        """
        for branches in _pages(self._source.branches, BRANCHES, lambda branch: len(branch.chain)):
            parts = [part for branch in branches for part in self._branch_parts(branch)]
            await self._write("import_branches", [], parts)
        for _, of_segment in groupby(self._source.items(), key=lambda item: item.segment):
            for items in _pages(of_segment, PAGE_ITEMS, lambda item: len(item.data)):
                await self._write_items(items)
        for appends in _pages(self._source.appends(), PAGE_ITEMS, _append_size):
            for append in appends:
                self._note_reach(append)
            parts = [part for append in appends for part in self._append_parts(append)]
            await self._write("import_appends", [], parts)
        return await self._finish()

    async def _finish(self) -> Conversation:
        conversation = self._source.conversation
        facts = {
            "id": conversation.id,
            "created_at": str(conversation.created_at),
            "updated_at": str(conversation.updated_at),
            "active_branch": conversation.active_branch,
            "title": conversation.title,
            "project_id": conversation.project_id,
            "referrer": conversation.referrer,
            **{f"m:{key}": value for key, value in conversation.metadata.items()},
        }
        # an empty metadata value is a value; of the other facts an empty one is none
        known = [
            (name, value) for name, value in facts.items() if value is not None and (value or name.startswith("m:"))
        ]
        names = [(branch.name, self._base + branch.line) for branch in self._source.branches]
        reach = [(self._base + segment, to) for segment, to in self._reach.items()]
        arguments: list[Argument] = [
            self._owner,
            self._source.fingerprint,
            self._keyspace.retention_seconds,
            self._base,
        ]
        arguments += [len(self._source.lengths), *self._source.lengths]
        for pairs in (known, names, reach):
            arguments.append(len(pairs))
            arguments += [part for pair in pairs for part in pair]
        call = Call("import_finish", self._keys.common, arguments, conversation.id)
        # The listing first, as when a conversation is created.
        touch = self._keyspace.touch(self._owner, conversation.id, conversation.project_id, conversation.referrer)
        await self._scripts.run(touch)
        restored = read_facts((await self._scripts.run(call))[0])
        token = f"import:{self._source.fingerprint}"
        await Ledger(self._keyspace).charge(self._owner, self._keys.partition, token, self._size, in_conversation=True)
        listings = self._keyspace.owner(self._owner).listings(restored.project_id, restored.referrer)
        await self._scripts.run_all(
            [Call("correct_index", [listing], [restored.id, restored.updated_at]) for listing in listings]
        )
        return restored

    async def _write(self, script: str, keys: Sequence[str], parts: Sequence[Argument]) -> None:
        head: list[Argument] = [self._owner, self._source.fingerprint, UNFINISHED_SECONDS]
        await self._scripts.run(Call(script, [self._keys.head, *keys], [*head, *parts], self._source.conversation.id))

    def _branch_parts(self, branch: ArchivedBranch) -> list[Argument]:
        line = self._base + branch.line
        fields: dict[str, Argument | None] = {
            "name": branch.name,
            "chain": self._open_chain(branch),
            "pending": join_calls(branch.pending),
            "created_at": branch.created_at,
            "updated_at": branch.updated_at,
            "parent": None if branch.parent is None else self._base + branch.parent,
            "forked_at": branch.forked_at,
            "forked_from": branch.forked_from,
            "description": branch.description,
            "mixed": 1 if branch.mixed else None,
        }
        known = [part for name, value in fields.items() if value is not None for part in (name, value)]
        held: dict[int, int] = {}
        for segment, _, stop in branch.chain:
            if segment != branch.line:
                held[segment] = max(stop, held.get(segment, 0))
        holds = [part for segment, to in held.items() for part in (self._base + segment, to)]
        return [line, len(known), *known, len(holds), *holds]

    def _open_chain(self, branch: ArchivedBranch) -> str:
        """Return a branch's chain with the open last span that it writes on in."""
        chain, start = list(branch.chain), self._source.lengths[branch.line]
        if chain and chain[-1][0] == branch.line:
            start = chain.pop()[1]
        closed = self._chain(chain)
        return f"{closed}{',' if closed else ''}{self._base + branch.line}:{start}:"

    async def _write_items(self, items: Sequence[ArchivedItem]) -> None:
        """Write items that follow each other; those that are more than one command takes come in pieces before."""
        portion = self._keyspace.portion
        parts: list[Argument] = [self._base + items[0].segment, items[0].offset]
        lists: list[tuple[str, bytes]] = []
        for item in items:
            element = wrap(item.data, item.note)
            self._size += len(element)
            if parted := part(Entry(Origin.MINTED, item.id, item.data, note=item.note), portion):
                lists.append((self._keys.pieces(parted.name), item.data))
                element = parted.element()
            parts += [item.id, element, str(item.mark or "")]
        for _ in range(BRING_ATTEMPTS):
            for key, data in lists:
                await bring_pieces(self._keyspace, key, data, portion.head)
            with suppress(Unstaged):
                return await self._write("import_items", [self._keys.index], parts)
        raise Unavailable("what was staged is gone")

    def _append_parts(self, append: ArchivedAppend) -> list[Argument]:
        parts: list[Argument] = [self._base + append.segment, append.end, append.id or "", append.model]
        parts.append(join_calls(append.pending))
        response = append.response
        if response is None:
            return [*parts, *[""] * 7]
        chains = [self._chain(chain) for chain in (response.snapshot, response.context, response.output)]
        pending = join_calls(response.pending)
        self._size += len(response.body)
        return [*parts, response.status, response.body, *chains, pending, response.created_at]

    def _note_reach(self, append: ArchivedAppend) -> None:
        if append.response is not None:
            for chain in (append.response.snapshot, append.response.context, append.response.output):
                for segment, _, stop in chain:
                    self._reach[segment] = max(stop, self._reach.get(segment, 0))

    def _chain(self, chain: Chain) -> str:
        return ",".join(f"{self._base + segment}:{start}:{stop}" for segment, start, stop in chain)


def _append_size(append: ArchivedAppend) -> int:
    return len(append.response.body) if append.response else 0


def _pages(parts: Iterable[Part], most: int, size_of: Callable[[Part], int]) -> Iterator[list[Part]]:
    """Yield `parts` in lists of at most `most`, and not many more bytes than a page may have."""
    page: list[Part] = []
    size = 0
    for each in parts:
        page.append(each)
        size += size_of(each)
        if len(page) == most or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page
