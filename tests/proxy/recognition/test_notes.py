"""Notes of turns that are put off: whoever looks something up finds them, and what is forgotten stays so."""

from __future__ import annotations

import pytest

from proxy.recognition.hints import HintMemory
from proxy.recording.notes import MOST_PUT_OFF, NoteQueue
from storage import DigestNote, DigestQuery, Members, Store

PARTITION = "0123456789abcdef"


def note(number: int = 0) -> DigestNote:
    return DigestNote(f"digest{number}", f"{PARTITION}:0:0:{number}t ...0:0...", number)


def found(memory: HintMemory, digest: str) -> Members:
    return memory.find(DigestQuery(digest), 16)


def queue(memory: HintMemory) -> NoteQueue:
    store = Store.connect("redis://localhost", prefix="p", timeout_seconds=1, max_connections=1, retention_seconds=60)
    return NoteQueue(store.recognition, memory, lambda: None)


async def test_what_is_put_off_is_found_at_once():
    memory = HintMemory()
    queue(memory).put("owner", PARTITION, lambda: [note()])
    assert found(memory, "digest0") == [(note().member, 0)]


@pytest.mark.parametrize("forgets_all", [True, False])
async def test_what_is_forgotten_while_it_is_put_off_is_not_found(*, forgets_all: bool):
    memory = HintMemory()
    queue(memory).put("owner", PARTITION, lambda: [note()])
    memory.forget_all() if forgets_all else memory.forget(PARTITION)
    assert found(memory, "digest0") == []


async def test_little_is_put_off_and_each_is_made_once():
    memory, made = HintMemory(), list[int]()
    notes = queue(memory)

    def make() -> list[DigestNote]:
        made.append(1)
        return [note()]

    for _ in range(MOST_PUT_OFF):
        notes.put("owner", PARTITION, make)
    assert len(made) == MOST_PUT_OFF
    found(memory, "digest0")
    assert len(made) == MOST_PUT_OFF


async def test_a_turn_that_can_not_be_noted_is_in_nobodys_way(caplog: pytest.LogCaptureFixture):
    memory = HintMemory()
    notes = queue(memory)
    notes.put("owner", PARTITION, lambda: [note(int("none"))])
    notes.put("owner", PARTITION, lambda: [note(1)])
    assert found(memory, "digest1") == [(note(1).member, 1)]
    assert "can't be noted" in caplog.text
