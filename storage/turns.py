"""Turns in the store: open, commit, and the locks (leases) that they hold while they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from storage.branches import branch_from
from storage.client.channel import Argument
from storage.client.keys import PartitionKeys
from storage.client.keyspace import Keyspace
from storage.client.pieces import ItemPieces, Torn
from storage.client.scripts import Call
from storage.client.staging import Stage
from storage.client.values import FIELD_BREAK, join_calls, split_calls
from storage.envelope import InPieces, open_envelope
from storage.errors import Conflict, HeavyHistory, StoreError, Unavailable
from storage.history import History, HistoryScale, read_history
from storage.items import COMMIT_MARKER_SECONDS, Items, collect
from storage.partitions import partition_of, random_hex
from storage.quotas import Ledger
from storage.recollection import Recollection, Recollections, turn_place
from storage.records import (
    CommitMode,
    CommitResult,
    Committed,
    HistoryLimit,
    KnownItem,
    Lease,
    OpenedTurn,
    TurnCommit,
    TurnSource,
)

#: For how long what a fork inherits is kept from being freed while its turn runs.
FORK_PIN_MS = 3_600_000
#: Digits of a token that nobody can guess.
SECRET_DIGITS = 16
_IN_CONVERSATION = {CommitMode.APPEND, CommitMode.FORK, CommitMode.PROMOTE}


def new_token(response_id: str) -> str:
    """Return a token for the lock of the turn that makes a response; whoever sees the lock knows which it is."""
    return f"{response_id}/{random_hex(SECRET_DIGITS)}"


class Renewal(NamedTuple):
    """What a renewal of a lock found. held: it still is; a turn that has lost it finds that out by its commit.

    stop: its turn is to end with what it has. watched: somebody watches the conversation.
    """

    held: bool = False
    stop: bool = False
    watched: bool = False


class Turns:
    """Turns of any owner."""

    def __init__(self, keyspace: Keyspace, items: Items) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts
        self._items = items
        self._ledger = Ledger(keyspace)
        self._pieces = ItemPieces(keyspace)
        self._recollections = Recollections()

    async def open(
        self,
        owner: str,
        source: TurnSource,
        lease: Lease,
        lease_seconds: float,
        item_ids: Sequence[str],
        call_ids: Sequence[str],
        most: HistoryLimit | None = None,
    ) -> OpenedTurn:
        """Check, lock and read everything for a turn: in one round trip, more where much of the history is not known.

        lease: partition and token (its lock is found here). item_ids: that the input names. call_ids: that it answers.
        most: how much of a history is read. Raises ConversationNotFound, BranchNotFound, ResponseNotFound, Locked,
        Unavailable, for a fork ItemNotFound, BranchExists, NotAUserMessage, NotAMessage, NoUserMessage: then nothing is
        held, but where Unavailable is `unsure`; and HeavyHistory, whose lock is held.
        """
        # an id that a client made up names no partition: it may be known where the turn takes place
        far = [one for one in item_ids if partition_of(one) != lease.partition]
        resolves, groups = self._items.resolve_calls(owner, far) if far else ([], [])
        keys, place = self._keyspace.keys_of(lease.partition), turn_place(owner, source, lease.partition)
        held = self._recollections.look(place)
        call = self._opening(keys, owner, source, lease, lease_seconds, (item_ids, call_ids), held)
        reply, *resolved = await self._scripts.run_all([call, *resolves])
        if isinstance(reply, StoreError):
            raise reply
        _, chain, *_, named, calls, _, lock, _, _, edition, is_rest, _, _ = reply
        scale = HistoryScale(most, HeavyHistory(source.subject, lock.decode()), held.history.items.size * is_rest)
        try:
            try:
                spans = await self._read_on(keys, [owner, edition], reply, scale)
                last = spans[-1][-1:] if spans else ()
                while True:
                    try:
                        history = held.extended(spans[0]) if is_rest else read_history(spans, chain)
                        here = {one: _read_known(found) for one, found in zip(item_ids, named, strict=True) if found}
                        known = collect(groups, resolved) | here
                        break
                    except InPieces:
                        parts = spans, named
                    spans, named = await self._whole(owner, lease.partition, *parts, has_known_first=bool(is_rest))
                    resolved = await self._items.whole(owner, [partition_of(group[0]) for group in groups], resolved)
                if history is None:
                    # the server has lost what was read there
                    self._recollections.forget(place)
                    raise Torn
            except Torn:
                return await self.open(owner, source, lease, lease_seconds, item_ids, call_ids, most)
        except Unavailable as lost:
            # it was opened before that
            raise Unavailable(lost.subject, lost.reason, unsure=lost.unsure or lease.token != "") from lost
        if place is not None and last:
            self._recollections.note(place, Recollection(chain.decode(), edition.decode(), last[0], history))
        answered = frozenset(one for one, found in zip(call_ids, calls, strict=True) if found)
        return _opened(reply, history, known, answered)

    def _opening(
        self,
        keys: PartitionKeys,
        owner: str,
        source: TurnSource,
        lease: Lease,
        lease_seconds: float,
        input_ids: tuple[Sequence[str], Sequence[str]],
        held: Recollection,
    ) -> Call:
        """Return the call that opens a turn. input_ids: of items and of calls. held: what is known of it."""
        item_ids, call_ids = input_ids
        space, fork, previous = self._keyspace, source.fork, source.previous_response_id
        arguments: list[Argument] = [owner, source.kind, source.conversation_id or "", source.branch, lease.token]
        arguments += [int(lease_seconds * 1000), space.retention_seconds, held.chain, held.edition, space.portion.bytes]
        if fork or item_ids or call_ids:
            arguments += [fork.point.value, fork.target, fork.name] if fork else ["", "", ""]
            arguments += [FORK_PIN_MS, len(item_ids), *item_ids, len(call_ids), *call_ids]
        names = [*keys.common, keys.response(previous)] if previous else keys.common
        return Call("open_turn", names, arguments, source.subject)

    async def _read_on(
        self, keys: PartitionKeys, who: Sequence[Argument], reply: Sequence[Any], scale: HistoryScale
    ) -> list[list[bytes]]:
        """Return the spans of a history with what the script that opened the turn has not read.

        who: the owner, and the edition of the partition at that time. reply: of the script. Raises Torn, Unavailable,
        HeavyHistory.
        """
        read, chain, left = list(reply[0]), reply[1], reply[-1]
        scale.count(chain)
        scale.add(read)
        while left:
            # one portion at a time: others come between two of them
            arguments = [*who, left, self._keyspace.portion.bytes]
            more, *rest = await self._scripts.run(Call("read_history", [keys.head], arguments))
            if not rest:
                if more == 0:
                    raise Torn
                raise Unavailable("a part of a history is gone")
            scale.add(more)
            read[-1] += more[0]
            read += more[1:]
            (left,) = rest
        return read

    async def _whole(
        self, owner: str, partition: str, spans: Sequence[list[bytes]], named: Sequence[bytes], *, has_known_first: bool
    ) -> tuple[list[list[bytes]], list[bytes]]:
        """Return spans of a history, and items that the input names, with whole elements. Raises Torn, Unavailable.

        has_known_first: the first element is only there to be compared, as it is.
        """
        if has_known_first:
            first, *rest = spans[0]
            whole = [[first, *await self._pieces.whole(owner, partition, rest)]]
        else:
            whole = [await self._pieces.whole(owner, partition, span) for span in spans]
        elements = await self._pieces.whole(owner, partition, [found[1:] for found in named])
        return whole, [found[:1] + element for found, element in zip(named, elements, strict=True)]

    async def peek(
        self, owner: str, source: TurnSource, partition: str, item_ids: Sequence[str], call_ids: Sequence[str]
    ) -> OpenedTurn:
        """Read what a turn would be opened with; nothing is locked or written. Raises as `open`, but not Locked."""
        return await self.open(owner, source, Lease(partition, "", ""), 0, item_ids, call_ids)

    async def commit(self, turn: TurnCommit) -> Committed:
        """Write a finished turn, all or nothing; a repeat changes nothing. One round trip, more where there is much.

        Raises Conflict (nothing was written), Unavailable (unknown whether it was: repeat).
        """
        keys = self._keyspace.keys_of(turn.partition)
        opened = turn.opened
        token = turn.job_token or turn.response_id
        stage = Stage(self._keyspace, keys, token, turn.inputs, turn.outputs)
        in_conversation = (turn.conversation_id or "") if turn.mode in _IN_CONVERSATION else ""
        facts = turn.owner, turn.response_id, in_conversation, opened.project_id, opened.referrer
        listings, touch = self._keyspace.listings(*facts, is_stored=turn.stored)
        arguments: list[Argument] = [
            turn.owner,
            turn.mode,
            turn.conversation_id or "",
            opened.line,
            opened.lock,
            turn.token,
            opened.chain,
            join_calls(sorted(opened.pending)),
            self._keyspace.retention_seconds,
            int(turn.stored),
            turn.status,
            turn.body,
            turn.response_id,
            turn.model.replace(FIELD_BREAK, ""),
            listings.conversations,
            listings.most_responses,
            *stage.arguments,
        ]
        if turn.fork or turn.job_token or not turn.stored:
            name = (turn.fork.backup if turn.mode is CommitMode.PROMOTE else opened.branch) if turn.fork else ""
            arguments += (name, opened.anchor or "", turn.job_token, COMMIT_MARKER_SECONDS)
        own = keys.response(turn.response_id), keys.commit(turn.response_id)
        commit_keys = [*keys.common, *own, *listings.keys, *stage.keys]
        calls = [Call("commit_turn", commit_keys, arguments, turn.conversation_id or "")]
        if touch is not None:
            calls.append(touch)
        runs = self._run_counted(turn, stage, calls) if self._keyspace.counts_bytes else stage.run_all(calls)
        reply = (await runs)[0]
        if isinstance(reply, StoreError):
            raise reply
        if isinstance(reply[0], int):
            _, branch, backup, places = reply
            return Committed(CommitResult.OK, branch_from(branch) if branch else None, backup.decode() or None, places)
        result, lives = CommitResult(reply[0].decode()), reply[1]
        if not lives and turn.conversation_id:
            # what noted the commit has listed a deleted conversation again
            drop = self._keyspace.drop(turn.owner, turn.conversation_id, opened.project_id, opened.referrer)
            await self._scripts.run(drop)
        return Committed(result)

    async def _run_counted(
        self, turn: TurnCommit, stage: Stage, calls: Sequence[Call]
    ) -> Sequence[list[Any] | StoreError]:
        """Run a commit and, in the same write, count what it stores; what it refuses is given back."""
        size, is_in = stage.size + (len(turn.body) if turn.stored else 0), turn.mode in _IN_CONVERSATION
        charge = self._ledger.charging(turn.owner, turn.partition, turn.response_id, size, in_conversation=is_in)
        replies = await stage.run_all(calls if charge is None else [*calls, charge])
        if isinstance(replies[0], Conflict):
            undone = f"undone:{turn.response_id}"
            await self._ledger.charge(turn.owner, turn.partition, undone, -size, in_conversation=is_in)
        return replies

    async def release(self, lease: Lease) -> None:
        """Give a lock back; nothing happens if it is not held by this token any more."""
        keys = self._keyspace.keys_of(lease.partition)
        await self._scripts.run(Call("release_turn", [keys.lock(lease.lock)], [lease.token]))

    async def withdraw(self, partition: str, token: str, new_branch: str = "") -> None:
        """Give back whatever an opening with this token holds. Raises Unavailable.

        new_branch: the name that its fork was to get, if any. An opening that the server has not come to yet is not
        undone by this; it comes over a connection that was made after the opening was sent, so that it is done by then.
        """
        keys = self._keyspace.keys_of(partition)
        await self._scripts.run(Call("withdraw_turn", [keys.head, keys.branches], [token, new_branch]))

    async def renew(self, leases: Sequence[Lease], lease_seconds: float) -> list[Renewal]:
        """Renew locks, all in one round trip, and learn what others want of their turns."""
        calls = []
        for lease in leases:
            keys = self._keyspace.keys_of(lease.partition)
            names = [keys.lock(lease.lock), keys.stop(lease.lock), keys.watched]
            calls.append(Call("renew_lease", names, [lease.token, int(lease_seconds * 1000)]))
        replies = await self._scripts.run_all(calls)
        return [Renewal() if isinstance(reply, StoreError) else Renewal(*map(bool, reply)) for reply in replies]


def _opened(
    reply: Sequence[Any], history: History, known: Mapping[str, KnownItem], answered: frozenset[str]
) -> OpenedTurn:
    """Return what open_turn tells. known: of what the input names; answered: the calls that it answers."""
    _, chain, pending, branch, facts, _, _, line, lock, anchor, model, _, _, watched, _ = reply
    return OpenedTurn(
        items=history.items,
        notes=history.notes,
        severed=history.severed,
        chain=chain,
        pending=frozenset(split_calls(pending.decode())),
        line=line,
        branch=branch.decode(),
        lock=lock.decode(),
        project_id=facts[0].decode() or None if facts else None,
        referrer=facts[1].decode() or None if facts else None,
        known=known,
        calls=answered,
        anchor=anchor.decode() or None,
        model=model.decode() or None,
        watched=bool(watched),
        beside=facts[2].decode() if len(facts) > 2 else "",
    )


def _read_known(found: bytes) -> KnownItem:
    """Return an item that the input names, from its element with '<' before it if the history has it, else '='.

    Raises InPieces.
    """
    data, note = open_envelope(found[1:])
    return KnownItem(data, in_history=found[:1] == b"<", note=note)
