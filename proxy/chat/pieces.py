"""Pieces: what the chunks of a stream say of one choice, put together. Pure.

Texts are joined once, at the end: one that comes in a hundred thousand pieces must not be copied as often.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from proxy.protocol.item_types import Item

#: Texts within an entry of an array, and within what is said aloud.
_ENTRY_TEXTS = ("text", "summary", "data")
_AUDIO_TEXTS = ("data", "transcript")
#: What a call says of itself, by its kind.
_CALL_TEXTS = {"function": "arguments", "custom": "input"}


class ChoicePieces:
    """One choice, as far as it came."""

    def __init__(self) -> None:
        #: Fields of the message; arrays entry by entry.
        self._message = _Pieces()
        self._arrays: dict[str, _Entries] = {}
        self._audio: _Pieces | None = None
        self._legacy: _Call | None = None
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._logprobs: list[Any] = []
        self._reason: str | None = None
        self._whole: Item | None = None

    @property
    def calls(self) -> int:
        """How many calls there are so far."""
        return len(self._calls)

    def take(self, choice: Item) -> None:
        """Take what a chunk says of it."""
        if isinstance(choice.get("finish_reason"), str):
            self._reason = choice["finish_reason"]
        if isinstance(logprobs := choice.get("logprobs"), dict) and isinstance(logprobs.get("content"), list):
            self._logprobs += logprobs["content"]
        if isinstance(message := choice.get("message"), dict):
            # some servers tell the whole in one chunk
            self._whole = message
        delta = choice.get("delta")
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if name != "role" and value is not None:
                self._take_field(name, value)

    def finished(self, index: int) -> Item:
        """Return the choice as an answer has it that was not streamed."""
        message = self._message.finished() | {name: array.finished() for name, array in self._arrays.items()}
        if self._audio is not None:
            message["audio"] = self._audio.finished()
        if self._calls:
            message["tool_calls"] = [call.finished() for call in self._calls]
        if self._legacy is not None:
            message["function_call"] = self._legacy.finished()["function"]
        if self._whole is not None and not any(message.values()):
            message = self._whole
        choice: Item = {"index": index, "message": {"role": "assistant", "content": None, **message}}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return {**choice, "finish_reason": self._reason}

    def _take_field(self, name: str, value: Any) -> None:
        if name == "tool_calls":
            for part in value if isinstance(value, list) else ():
                if isinstance(part, dict):
                    self._take_call(part)
        elif name == "function_call":
            if isinstance(value, dict):
                self._legacy = self._legacy or _Call()
                self._legacy.take({"function": value})
        elif name == "audio":
            if isinstance(value, dict):
                self._audio = self._audio or _Pieces(_AUDIO_TEXTS)
                self._audio.take(value)
        elif isinstance(value, list):
            self._arrays.setdefault(name, _Entries()).take(value)
        else:
            self._message.take({name: value}, (name,))

    def _take_call(self, part: Item) -> None:
        """Take a part of a call: by its index; without one a new id begins a new call.

        So does a new id with a name under an index that is taken: some servers number all calls alike.
        """
        index, call_id = part.get("index"), part.get("id")
        number = index if type(index) is int else None
        last = self._calls[-1] if self._calls else None
        call = last if number is None else self._by_index.get(number)
        is_other = call is not None and bool(call_id and call.id and call_id != call.id)
        if call is None or (is_other and (number is None or _has_name(part))):
            call = _Call()
            self._calls.append(call)
            if number is not None:
                self._by_index[number] = call
        call.take(part)


class _Pieces:
    """An object, as far as it came. texts: its fields that come in pieces; of others the last counts."""

    def __init__(self, texts: Collection[str] = ()) -> None:
        self._names = texts
        self._texts: dict[str, list[str]] = {}
        self._fields: Item = {}

    def take(self, part: Item, texts: Collection[str] = ()) -> None:
        """Take more of it. texts: more fields that come in pieces."""
        for name, value in part.items():
            if isinstance(value, str) and (name in self._names or name in texts):
                self._texts.setdefault(name, []).append(value)
            elif value is not None:
                self._fields[name] = value

    def finished(self) -> Item:
        """Return the object."""
        return {**self._fields, **{name: "".join(pieces) for name, pieces in self._texts.items()}}


class _Entries:
    """An array, as far as it came: entries of one index and type are one, others follow each other."""

    def __init__(self) -> None:
        self._entries: list[Any] = []
        self._by_place: dict[tuple[int, str], _Pieces] = {}

    def take(self, more: list[Any]) -> None:
        """Take more of it."""
        for one in more:
            index = one.get("index") if isinstance(one, dict) else None
            if type(index) is not int:
                self._entries.append(one)
                continue
            place = (index, str(one.get("type")))
            if place not in self._by_place:
                self._by_place[place] = _Pieces(_ENTRY_TEXTS)
                self._entries.append(self._by_place[place])
            self._by_place[place].take(one)

    def finished(self) -> list[Any]:
        """Return the array."""
        return [one.finished() if isinstance(one, _Pieces) else one for one in self._entries]


class _Call:
    """A call, as far as it came: id, type and name of the first part that has them, its arguments in pieces."""

    def __init__(self) -> None:
        self.id = ""
        self._fields: Item = {}
        self._inner: dict[str, Item] = {}
        self._texts: dict[str, list[str]] = {}

    def take(self, part: Item) -> None:
        """Take more of it."""
        for name, value in part.items():
            if name in _CALL_TEXTS and isinstance(value, dict):
                self._take_inner(name, value)
            elif name == "id":
                self.id = self.id or (value if isinstance(value, str) else "")
            elif name != "index" and value is not None:
                self._fields.setdefault(name, value)

    def _take_inner(self, kind: str, inner: Item) -> None:
        known = self._inner.setdefault(kind, {})
        for name, value in inner.items():
            if name == _CALL_TEXTS[kind] and isinstance(value, str):
                self._texts.setdefault(kind, []).append(value)
            elif value is not None and not known.get(name):
                known[name] = value

    def finished(self) -> Item:
        """Return the call as a message has it."""
        inner = dict(self._inner)
        for kind, pieces in self._texts.items():
            inner[kind] = {**inner[kind], _CALL_TEXTS[kind]: "".join(pieces)}
        call: Item = {"type": "custom" if "custom" in inner else "function", **self._fields, **inner}
        return {"id": self.id, **call} if self.id else call


def _has_name(part: Item) -> bool:
    return any(isinstance(part.get(kind), dict) and part[kind].get("name") for kind in _CALL_TEXTS)
