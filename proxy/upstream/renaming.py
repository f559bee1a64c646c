"""Renaming: the `model` in a body that is passed on, for servers that call a model something else. Pure.

Only the value is written anew; all other fields keep their bytes.
"""

from __future__ import annotations

import msgspec

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DATA = b"data:"


class _Named(msgspec.Struct):
    model: str = ""


_NAMED = msgspec.json.Decoder(_Named)


def model_in(body: bytes) -> str:
    """Return the model that a JSON body names, '' if it names none or is no JSON object."""
    try:
        return _NAMED.decode(body).model
    except msgspec.MsgspecError:
        return ""


def with_model(body: bytes, model: str) -> bytes:
    """Return a JSON object with its `model` replaced, if it has one that is text; anything else as it is."""
    if not model_in(body):
        return body
    fields = _FIELDS.decode(body)
    return msgspec.json.encode({**fields, "model": msgspec.Raw(msgspec.json.encode(model))})


class EventRenamer:
    """Renames the model in the data of server-sent events. max_line_bytes: a longer line goes on as it is."""

    def __init__(self, model: str, max_line_bytes: int) -> None:
        self._model = model
        self._max_line_bytes = max_line_bytes
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the lines that are whole, renamed."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        told = b"".join([self._renamed(line) + b"\n" for line in lines])
        if len(self._rest) > self._max_line_bytes:
            told, self._rest = told + self._rest, b""
        return told

    def flush(self) -> bytes:
        """Return what is left at the end."""
        rest, self._rest = self._rest, b""
        return self._renamed(rest)

    def _renamed(self, line: bytes) -> bytes:
        if not line.startswith(_DATA) or b'"model"' not in line:
            return line
        data = line[len(_DATA) :]
        start = data[: len(data) - len(data.lstrip())]
        return _DATA + start + with_model(data.strip(), self._model) + (b"\r" if data.endswith(b"\r") else b"")
