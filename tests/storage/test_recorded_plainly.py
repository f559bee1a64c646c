"""Recorded turns, plain and in general: both cases of the script write the same."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from redis.asyncio import Redis

from proxy.protocol import ids
from storage import (
    NOWHERE,
    ON_LINE,
    DigestNote,
    DigestNotes,
    Entry,
    Lead,
    Locked,
    RecordAct,
    RecordedTurn,
    Spot,
    Store,
    new_partition,
    partition_of,
)
from tests.depth import few
from tests.storage.builders import OWNER, RETENTION_SECONDS, add, minted, open_turn, take_turn
from tests.storage.twins import Twins


def entries(partition: str, dice: Random, waiting: list[str]) -> list[Entry]:
    """Return some items: text, calls, and outputs of calls that wait."""
    made = []
    for _ in range(dice.randint(1, 3)):
        kind = dice.choice(["", "", "+", "-"])
        if kind == "+":
            waiting.append(f"call_{dice.randrange(10**6)}")
            made.append(minted(partition, "call", f"+{waiting[-1]}"))
        elif kind == "-" and waiting:
            made.append(minted(partition, "output", f"-{waiting.pop()}"))
        else:
            made.append(minted(partition, f"text {dice.randrange(10**6)}"))
    return made


def leads(dice: Random, number: int, *, is_plain: bool) -> list[Lead]:
    """Return what leads to a turn: its end, and what else may lead somewhere."""
    names = dice.sample([f"digest{number}", f"digest{number // 4}", "all"], dice.randint(1, 3))
    found = [Lead(names, 2, "t k.", dice.choice([1, NOWHERE]), ".", is_behind=dice.random() < 0.3)]
    found[0] = found[0]._replace(replaces=not is_plain)
    if dice.random() < 0.2:
        found.append(Lead(["question"], 0, "q k.", 0, "..", replaces=True))
    if dice.random() < 0.5:
        found.append(Lead([f"said{dice.randrange(9)}"], ON_LINE, "s k.", 1, "", replaces=True))
    return found


async def play(store: Store, dice: Random) -> None:
    """Record turns of one conversation, with all else that may happen to it in between."""
    conversation_id = ids.new_conversation_id(new_partition())
    partition, spots, waiting, known = partition_of(conversation_id), list[Spot](), list[str](), list[str]()
    for number in range(12):
        act = RecordAct.NEW if not number else dice.choice([RecordAct.TIP] * 6 + [*RecordAct])
        spot = Spot() if not spots or dice.random() < 0.05 else spots[-1] if dice.random() < 0.8 else dice.choice(spots)
        record = RecordedTurn(
            OWNER,
            conversation_id,
            act,
            ids.new_response_id(partition, stored=True),
            b"{}",
            entries(partition, dice, waiting),
            entries(partition, dice, waiting),
            spot=spot,
            name=f"branch{number}",
            model=dice.choice(["", "m"]),
            stored=dice.random() < 0.9,
            metadata={"session_id": "s"},
            leads=leads(dice, number, is_plain=act in (RecordAct.NEW, RecordAct.TIP)),
            marks=[DigestNote(f"digest{number - 1}", member, -number, adds=False) for member in known[-1:]],
        )
        done = await store.recognition.record(record)
        if done.spots:
            notes = [lead.note(partition, done.line, [spot, *done.spots], 1) for lead in record.leads]
            known += [note.member for note in notes if note is not None]
        if dice.random() < 0.2:
            await store.recognition.record(record)
        spots += done.spots
        if dice.random() < 0.7:
            note = DigestNote(f"digest{number % 4}", f"{partition}:{number % 3}t .", number)
            await store.recognition.note([DigestNotes(OWNER, partition, [note])])
        conversation = await store.conversations.read(OWNER, conversation_id)
        match dice.randrange(8):
            case 0:
                await add(store, conversation, "added")
            case 1:
                with suppress(Locked):
                    await take_turn(store, conversation=conversation)
            case 2:
                with suppress(Locked):
                    await open_turn(store, conversation=conversation, token=f"token{number}")
            case 3 if record.stored and done.spots:
                await take_turn(store, previous=record.response_id)


@pytest.mark.parametrize("seed", few(range(12), 4))
async def test_the_plain_case_writes_what_the_general_one_does(valkey: Redis, valkey_url: str, seed: int):
    async with Redis.from_url(valkey_url, db=1) as other:
        await other.flushdb()
        twins = Twins(valkey, other, conversation_seconds=0 if seed % 4 else 2 * RETENTION_SECONDS)
        try:
            await play(twins.store, Random(seed))
            await twins.compare()
        finally:
            await twins.store.close()
            await other.flushdb()
