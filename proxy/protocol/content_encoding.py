"""Content codings (RFC 9110, 8.4.1) undone piece by piece, so that a bomb is noticed while it goes off."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Compressed bytes taken at once. zstd makes at most 128 KiB of 4 bytes, so one step yields 8 MiB at most.
STEP_BYTES = 256

#: Largest zstd window that a content coding may ask for (RFC 9659).
MAX_WINDOW_BYTES = 8 * 1024 * 1024


class CodingError(Exception):
    """The bytes are not what their coding says, or they end too early."""


class _Unpacker(Protocol):
    """What zlib's and zstandard's decompression objects have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip(_first: int) -> _Unpacker:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _deflate(first: int) -> _Unpacker:
    # The coding means zlib's format; some senders leave its header out (RFC 9110, 8.4.1.2).
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if first & 0x0F == 8 else -zlib.MAX_WBITS)


def _zstd(_first: int) -> _Unpacker:
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()


_UNPACKERS: dict[str, Callable[[int], _Unpacker]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}

#: The codings that `ContentDecoder` undoes, `identity` aside.
SUPPORTED = frozenset(_UNPACKERS)


class ContentDecoder:
    """Undoes one content coding.

    `decode` may be given bytes cut anywhere; `finish` is called after the last. coding: one of `SUPPORTED`,
    lower case. Several gzip members or zstd frames in a row count as one body.
    """

    def __init__(self, coding: str) -> None:
        self._start = _UNPACKERS[coding]
        self._unpacker: _Unpacker | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of `data` in pieces of at most 8 MiB. Raises CodingError."""
        for start in range(0, len(data), STEP_BYTES):
            yield from self._step(data[start : start + STEP_BYTES])

    def finish(self) -> None:
        """Raise CodingError where the body broke off inside a member or frame."""
        if self._unpacker is not None:
            raise CodingError

    def _step(self, data: bytes) -> Iterator[bytes]:
        while data:
            unpacker = self._unpacker = self._unpacker or self._start(data[0])
            try:
                piece = unpacker.decompress(data)
            except (zlib.error, zstandard.ZstdError) as exc:
                raise CodingError from exc
            if piece:
                yield piece
            data = b""
            if unpacker.eof:
                data = unpacker.unused_data
                self._unpacker = None
