"""Backup file: everything that a store holds in one file, which is whole or refused.

    MAGIC, then one zstd stream of frames: 4 bytes length (big-endian), and a record in MessagePack

A `BackupHead` comes first, then `KeyPart`s, then one `BackupEnd` with the SHA-256 of all frames before it: a file that
was cut off or changed is noticed before anything of it is used. Values are as they are in Redis, whatever server wrote
them: a backup of one server goes into any other, and into a cluster. Nothing is encrypted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, TypeAlias

import msgspec
import zstandard

#: What a file begins with; the number is the version of this format.
MAGIC = b"branchline backup 1\n"
#: Elements of one part, and bytes that they have, but for a single one that is longer.
PART_ELEMENTS = 500
PART_BYTES = 1 << 20
#: Bytes of a frame: an element of a Redis value has 512 MB at most.
MAX_FRAME_BYTES = (1 << 29) + PART_BYTES

_LENGTH_BYTES = 4
#: Memory that reading may take: a stream of ours needs 8 MB.
_WINDOW_BYTES = 1 << 27


class DamagedBackup(ValueError):
    """The file is no backup, or not a whole one; `str()` says what is wrong, without content."""


class BackupHead(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    """What a backup is of. layout: of the store. writer: what wrote it. started_at: Unix time in s.

    source: the server, without credentials. sealing_key: the fingerprint of the key that it does not have; '' unknown.
    """

    layout: int
    writer: str
    started_at: int
    source: str
    sealing_key: str


class KeyPart(msgspec.Struct, frozen=True, array_like=True, tag="key"):
    """Some of what a key holds. name: without the store's prefix. kind: hash, list, zset or stream.

    expires_at_ms: 0 for never. offset: elements of a list before these. elements: of hashes field, value, …, of sorted
    sets member, score, …, of streams id, number of texts, texts, ….
    """

    name: str
    kind: str
    expires_at_ms: int
    offset: int
    elements: list[bytes]


class BackupEnd(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """What was written before. sha256: of all frames, their lengths included."""

    conversations: int
    responses: int
    keys: int
    sha256: bytes


Record: TypeAlias = BackupHead | KeyPart | BackupEnd

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def split_key(name: str, kind: str, expires_at_ms: int, units: Iterator[list[bytes]]) -> Iterator[KeyPart]:
    """Yield a key in parts. units: what must not be parted: elements, pairs, or entries."""
    offset, elements, size = 0, list[bytes](), 0
    for unit in units:
        length = sum(map(len, unit))
        if elements and (len(elements) + len(unit) > PART_ELEMENTS or size + length > PART_BYTES):
            yield KeyPart(name, kind, expires_at_ms, offset, elements)
            offset, elements, size = offset + len(elements), [], 0
        elements += unit
        size += length
    if elements:
        yield KeyPart(name, kind, expires_at_ms, offset, elements)


class BackupWriter:
    """Writes a backup into a file that is open."""

    def __init__(self, file: IO[bytes], head: BackupHead) -> None:
        file.write(MAGIC)
        compressor = zstandard.ZstdCompressor(level=3)
        self._stream = compressor.stream_writer(file, closefd=False)
        self._hash = hashlib.sha256()
        self._conversations = self._responses = self._keys = 0
        self._write(head)

    def write(self, part: KeyPart) -> None:
        """Write one part; those of a key in their order."""
        if part.offset == 0:
            kind = part.name.partition("}:")[2]
            self._conversations += kind == "conversation" and b"deleted_at" not in part.elements[::2]
            self._responses += kind.startswith("response:")
            self._keys += 1
        self._write(part)

    def finish(self) -> BackupEnd:
        """Write the end; without it the file is refused."""
        end = BackupEnd(self._conversations, self._responses, self._keys, self._hash.digest())
        self._write(end)
        self._stream.flush(zstandard.FLUSH_FRAME)
        return end

    def _write(self, record: Record) -> None:
        data = _encoder.encode(record)
        frame = len(data).to_bytes(_LENGTH_BYTES, "big") + data
        self._hash.update(frame)
        self._stream.write(frame)


class BackupReader:
    """Reads a backup. head: is read at once; `end` once all parts were."""

    def __init__(self, file: IO[bytes]) -> None:
        if (magic := file.read(len(MAGIC))) != MAGIC:
            known = magic.rstrip(b"0123456789\n") == MAGIC.rstrip(b"0123456789\n")
            raise DamagedBackup("it has a newer format; use a newer Branchline" if known else "it is no backup")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._stream = decompressor.stream_reader(file, read_across_frames=False, closefd=False)
        self._hash = hashlib.sha256()
        self.end: BackupEnd | None = None
        head = self._read()
        if not isinstance(head, BackupHead):
            raise DamagedBackup("it does not say what it is of")
        self.head = head

    def parts(self) -> Iterator[KeyPart]:
        """Yield all parts. Raises DamagedBackup; whatever came before counts for nothing then."""
        while True:
            digest = self._hash.digest()
            match self._read():
                case KeyPart() as part:
                    yield part
                case BackupEnd() as end:
                    if end.sha256 != digest:
                        raise DamagedBackup("what is in it is not what was written")
                    self.end = end
                    return
                case _:
                    raise DamagedBackup("it begins anew in its middle")

    def verify(self) -> BackupEnd:
        """Read all of it, and return its end. Raises DamagedBackup."""
        for _ in self.parts():
            pass
        if self.end is None:
            raise DamagedBackup("it has no end")
        return self.end

    def _read(self) -> Record:
        head = self._take(_LENGTH_BYTES)
        length = int.from_bytes(head, "big")
        if length > MAX_FRAME_BYTES:
            raise DamagedBackup("it is damaged")
        data = self._take(length)
        self._hash.update(head)
        self._hash.update(data)
        try:
            record: Record = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise DamagedBackup("it is damaged") from exc
        return record

    def _take(self, length: int) -> bytes:
        # in steps: a length that lies must not take its memory
        data = bytearray()
        while len(data) < length:
            try:
                piece = self._stream.read(min(length - len(data), PART_BYTES))
            except zstandard.ZstdError as exc:
                raise DamagedBackup("it is damaged") from exc
            if not piece:
                raise DamagedBackup("it ends too early")
            data += piece
        return bytes(data)
