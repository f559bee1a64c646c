"""The file of a backup: what is written is read again, and anything else is refused."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from storage import BackupHead, BackupReader, BackupWriter, DamagedBackup, KeyPart
from storage.archive.backup_file import MAGIC, PART_BYTES, PART_ELEMENTS, split_key

HEAD = BackupHead(3, "Branchline 9", 1_800_000_000, "a server", "0123")
PARTS = [
    KeyPart(":{1}:segment:0", "list", 0, 0, [b'{"id":"msg_1"}', b"", b"\xff\x00"]),
    KeyPart(":{1}:conversation", "hash", 1_900_000_000_000, 0, [b"id", b"conv_1"]),
    KeyPart(":{1}:response:resp_1", "hash", 0, 0, [b"status", b"completed"]),
]

texts = st.text(max_size=20)
parts = st.builds(
    KeyPart,
    texts,
    st.sampled_from(["hash", "list", "zset", "stream"]),
    st.integers(0, 2**53),
    st.integers(0, 2**40),
    st.lists(st.binary(max_size=40), max_size=4),
)


def written(parts: Sequence[KeyPart], head: BackupHead = HEAD) -> bytes:
    file = io.BytesIO()
    writer = BackupWriter(file, head)
    for part in parts:
        writer.write(part)
    writer.finish()
    return file.getvalue()


def frames(*records: bytes) -> bytes:
    return MAGIC + zstandard.compress(b"".join(len(one).to_bytes(4, "big") + one for one in records))


def test_it_counts_what_it_holds_and_reads_back():
    reader = BackupReader(io.BytesIO(written(PARTS)))
    assert (reader.head, list(reader.parts())) == (HEAD, PARTS)
    assert reader.end is not None
    assert (reader.end.conversations, reader.end.responses, reader.end.keys) == (1, 1, 3)


@given(
    st.lists(parts, max_size=5), st.builds(BackupHead, st.integers(0, 9), texts, st.integers(0, 2**40), texts, texts)
)
def test_what_is_written_is_read(given_parts: list[KeyPart], head: BackupHead):
    reader = BackupReader(io.BytesIO(written(given_parts, head)))
    assert (reader.head, list(reader.parts())) == (head, given_parts)


@given(st.data())
def test_a_file_that_was_cut_or_changed_is_refused_or_still_the_same(data: st.DataObject):
    whole = written(PARTS)
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 8))
    broken = whole[:at] if bit == 8 else whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
    try:
        reader = BackupReader(io.BytesIO(broken))
        read = list(reader.parts())
    except DamagedBackup:
        return
    assert (reader.head, read) == (HEAD, PARTS)


@given(st.binary(max_size=200))
@example(frames())
@example(frames(b"\x80"))
@example(MAGIC + zstandard.compress(b"\xff\xff\xff\xff"))
@example(MAGIC + zstandard.compress(b"\x1f\xff\xff\xffx"))
def test_anything_else_is_refused(content: bytes):
    for text in (content, MAGIC + content, frames(content)):
        with pytest.raises(DamagedBackup):
            BackupReader(io.BytesIO(text)).verify()


def test_a_newer_format_is_named():
    with pytest.raises(DamagedBackup, match="newer format"):
        BackupReader(io.BytesIO(b"branchline backup 2\n..."))


@given(st.lists(st.lists(st.binary(max_size=9), min_size=2, max_size=2), max_size=8), st.integers(0, PART_ELEMENTS))
def test_parts_are_of_a_bearable_size_and_together_the_whole(units: list[list[bytes]], many: int):
    units = [*units, *[[b"x", b"y"]] * many, [b"", b"x" * PART_BYTES], [b"z", b"z"]]
    made = list(split_key("name", "hash", 7, iter(units)))
    assert [one for part in made for one in part.elements] == [one for unit in units for one in unit]
    assert [part.offset for part in made] == [sum(len(one.elements) for one in made[:i]) for i in range(len(made))]
    assert all(len(part.elements) <= PART_ELEMENTS and len(part.elements) % 2 == 0 for part in made)
