"""Stream reader: the chunks of a Chat Completions answer, put together as they come. Pure.

    bytes → events → chunks → by choice: texts joined, calls by their index → the answer that was not streamed

It stands beside a stream that goes by: it keeps what came, and never raises. What it can't take, it says at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from proxy.chat.answer import CHAT_LIMITS, ChatLimits, Completion, completion_of, read_completion
from proxy.chat.pieces import ChoicePieces
from proxy.protocol.ids import new_call_id
from proxy.protocol.item_types import Item
from proxy.protocol.lenient_json import loads_lenient
from proxy.protocol.sse import EventTooLarge, SseDecoder, is_stream

_DONE = b"[DONE]"
#: As many bytes tell whether a body is a stream.
_UNDECIDED_BYTES = 16
#: Fields of chunks that the answer has as they are; the last that is not null counts.
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier", "usage")


class ChunkReader:
    """Reads one streamed answer. mint: makes ids for calls that have none."""

    def __init__(self, limits: ChatLimits = CHAT_LIMITS, mint: Callable[[], str] = new_call_id) -> None:
        self._limits = limits
        self._mint = mint
        self._decoder = SseDecoder(limits.max_event_bytes)
        self._bytes = 0
        #: What came while it was open whether it is a stream; afterwards the body that is none.
        self._start: list[bytes] = []
        self._is_stream: bool | None = None
        self._head: Item = {}
        self._choices: dict[int, ChoicePieces] = {}
        self._problem = ""
        self.is_done = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        self._bytes += len(data)
        if self._problem or self.is_done:
            return
        if self._bytes > self._limits.max_bytes:
            self._refuse("larger than what is taken down")
            return
        if self._is_stream is None:
            self._start.append(data)
            data = b"".join(self._start)
            self._is_stream = is_stream(data)
            if self._is_stream is None and len(data.lstrip()) > _UNDECIDED_BYTES:
                # bytes of neither kind are events, if anything
                self._is_stream = True
        elif not self._is_stream:
            self._start.append(data)
        if self._is_stream:
            self._start = []
            self._decode(data)

    def finish(self) -> Completion:
        """Return the answer, as far as it came; nothing is fed any more."""
        if not self._problem and self._start:
            body = b"".join(self._start)
            if self._is_stream is False:
                return read_completion(body, self._limits, self._mint)
            self._decode(body)
        if not self._problem and not self.is_done:
            self._take_all(self._decoder.flush())
        if self._problem or not self._choices:
            return Completion(problem=self._problem or "no chunks")
        choices = [choice.finished(index) for index, choice in self._choices.items()]
        return completion_of({**self._head, "choices": choices}, self._limits, self._mint)

    def _refuse(self, problem: str) -> None:
        self._problem, self._choices, self._start = problem, {}, []

    def _decode(self, data: bytes) -> None:
        try:
            self._take_all(self._decoder.feed(data))
        except EventTooLarge:
            self._refuse("an event larger than what is taken down")

    def _take_all(self, events: Any) -> None:
        for event in events:
            if event.data.strip() == _DONE:
                self.is_done = True
            elif not self.is_done and not self._problem:
                self._take(event.data)

    def _take(self, data: bytes) -> None:
        try:
            chunk = loads_lenient(data)
        except orjson.JSONDecodeError:
            return
        if not isinstance(chunk, dict):
            return
        self._head.update({name: chunk[name] for name in _HEAD if chunk.get(name) is not None})
        choices = chunk.get("choices")
        for number, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                self._take_choice(choice, number)

    def _take_choice(self, choice: Item, number: int) -> None:
        index = choice.get("index")
        index = index if type(index) is int else number
        if index not in self._choices and len(self._choices) >= self._limits.max_choices:
            self._refuse("more choices than are taken down")
            return
        known = self._choices.setdefault(index, ChoicePieces())
        known.take(choice)
        if known.calls > self._limits.max_calls:
            self._refuse("more calls than are taken down")
