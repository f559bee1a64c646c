"""Look: what of a request can be looked up, and what its turn will be found by. Histories are remembered. Pure.

An app resends its history byte for byte, so what a process has normalised is known again by the bytes of the elements:

    chain 0 = key,   chain i = hash(chain i-1, bytes of element i),   chain of the last element → the stream up to there

Of a request only the elements behind the longest known chain are parsed. Instructions that it begins with are in no
chain: they change, and are not compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
import orjson

from proxy.protocol.item_types import Item
from proxy.protocol.lenient_json import loads_lenient
from proxy.recognition.stream import RequestStream, Sample, TurnDigests

#: Samples of all histories that are remembered, each history counted with all of its own; one is some 400 bytes.
MAX_SAMPLES = 100_000
#: Elements of a request that are looked at; of a longer one nothing is recognised.
MAX_ELEMENTS = 100_000
#: User messages whose digests are looked up, the last ones.
_LAST_SAID = 32
_INSTRUCTING = ("system", "developer")
#: Pairs that are looked up, the last ones: a window of a history begins anywhere.
_LAST_PAIRS = 4

#: Turns one element into items.
ToItems: TypeAlias = Callable[[Any], Iterable[Item]]

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


class Evidence(StrEnum):
    """What a digest is of, the best first; see `Sample`."""

    FULL = "full"
    QUESTION = "question"
    ANCHOR = "anchor"
    PAIR = "pair"
    SAID = "said"  #: this user message, under the same key
    SESSION = "session"  #: the same key only; no digest of a request


@dataclass(slots=True)
class Look:
    """What of a request can be looked up.

    samples: after each answer in it, oldest first. said: of each user message that is no context of the app's, with its
    element's index, if that is wanted. count: elements.
    """

    samples: Sequence[Sample]
    said: Sequence[tuple[int, bytes]]
    count: int
    _closed: RequestStream
    _open: RequestStream
    _question: bytes = b""

    @property
    def question(self) -> bytes:
        """Digest of all of it, with what came after the last answer, outputs of tools and media too."""
        self._question = self._question or self._closed.question()
        return self._question

    def wanted(self, limit: int = 16) -> list[tuple[Evidence, bytes]]:
        """Return what to look up, the best first. limit: samples, the last ones.

        What is not found of these may be asked for with more. `SAID` leads only to what was said under the same key.
        """
        last = self.samples[: -limit - 1 : -1] if limit else ()
        pairs = [sample.pair for sample in last[:_LAST_PAIRS] if sample.pair]
        return [
            *[(Evidence.FULL, sample.full) for sample in last],
            (Evidence.QUESTION, self.question),
            *[(Evidence.ANCHOR, sample.anchor) for sample in last],
            *[(Evidence.PAIR, pair) for pair in pairs],
            *[(Evidence.SAID, digest) for _, digest in self.said[-_LAST_SAID:]],
        ]

    def ended(self, answer: Iterable[Item]) -> TurnDigests:
        """Return what leads to the turn that this answer ends. May be asked for each of several answers."""
        return self.digests_of(self.answered(answer))

    def answered(self, answer: Iterable[Item]) -> RequestStream:
        """Return the stream up to the end of an answer."""
        stream = self._open.copy()
        stream.feed(answer)
        stream.close()
        return stream

    def digests_of(self, answered: RequestStream) -> TurnDigests:
        """Return what leads to the turn that an answer ends; see `answered`."""
        if len(answered.samples) == len(self._open.samples):
            return TurnDigests(b"", b"", b"", 0, 0, b"")
        end = answered.samples[-1]
        return TurnDigests(end.full, end.anchor, end.pair, end.length, end.pair_length, end.strict)


class Looker:
    """Looks at requests, and remembers the histories of those that it has seen lately. max_samples: of all of them."""

    def __init__(self, max_samples: int = MAX_SAMPLES) -> None:
        self._max_samples = max_samples
        self._samples = 0
        #: By the chain of a history's elements: the stream up to there, and the chain that it goes on from.
        self._known: OrderedDict[int, tuple[RequestStream, int]] = OrderedDict()

    @property
    def samples(self) -> int:
        """How many samples are remembered, each history counted with all of its own."""
        return self._samples

    def look(self, key: bytes, raw: bytes, to_items: ToItems | None = None, *, tells_said: bool = True) -> Look | None:
        """Return what of a request can be looked up; None if there is nothing to look at.

        key: see `stream_key`. raw: the JSON of `input` or `messages`, a string or an array. to_items: what an element
        stands for, if it is no item; the same function for what is looked at under one key and name. tells_said: see
        `RequestStream`.
        """
        if raw[:1] != b"[":
            elements = _parse(raw)
            return look_at(key, [elements], to_items) if isinstance(elements, str) else None
        try:
            elements = _ELEMENTS.decode(raw)
        except (msgspec.MsgspecError, RecursionError):
            elements = _parse(raw)
            return look_at(key, elements, to_items) if isinstance(elements, list) else None
        if len(elements) > MAX_ELEMENTS:
            return None
        return _finish(self._streamed(key, elements, to_items, tells_said=tells_said))

    def _streamed(
        self, key: bytes, elements: Sequence[bytes], to_items: ToItems | None, *, tells_said: bool
    ) -> RequestStream:
        start = _instructions(elements)
        begun = hash((key, to_items, start, tells_said))
        chains = [begun]
        for element in elements[start:]:
            chains.append(hash((chains[-1], bytes(element))))
        known = next((chain for chain in reversed(chains) if chain in self._known), None)
        if known is None:
            stream = RequestStream(key, tells_said=tells_said)
            stream.count = start
            rest = elements[start:]
        else:
            self._known.move_to_end(known)
            stream = self._known[known][0]
            rest = elements[stream.count :]
        if rest:
            stream = stream.copy()
            for element in rest:
                _feed(stream, _parse(bytes(element)), to_items)
            self._remember(chains[-1], stream, begun if known is None else known)
        return stream

    def _remember(self, chain: int, stream: RequestStream, before: int) -> None:
        """Remember a history; of those that it goes on from just the last one, which an edit begins with."""
        if len(stream.samples) > self._max_samples // 4:
            return
        if before in self._known:
            self._forget(self._known[before][1])
        self._known[chain] = (stream, before)
        self._samples += len(stream.samples) + 1
        while self._samples > self._max_samples:
            self._forget(next(iter(self._known)))

    def _forget(self, chain: int) -> None:
        if chain in self._known:
            self._samples -= len(self._known.pop(chain)[0].samples) + 1


def look_at(key: bytes, elements: Sequence[Any], to_items: ToItems | None = None, *, tells_said: bool = True) -> Look:
    """Return the same of elements that are parsed: such as have references in place of which their items stand."""
    stream = RequestStream(key, tells_said=tells_said)
    for element in elements:
        _feed(stream, element, to_items)
    return _finish(stream, is_shared=False)


def is_question(element: Any) -> bool:
    """Whether an element is a user's message and nothing else."""
    return type(element) is dict and element.get("role") == "user" and element.get("type", "message") == "message"


def stream_of(key: bytes, items: Iterable[bytes], *, tells_said: bool) -> RequestStream:
    """Return the stream of a history as it is stored, each item as JSON; to be gone on from by `look_behind`."""
    stream = RequestStream(key, tells_said=tells_said)
    for item in items:
        _feed(stream, _parse(item), None)
    return stream


def look_behind(before: RequestStream, items: Iterable[bytes]) -> Look:
    """Return what can be looked up of a request that goes on from a history. items: that it brings, as stored."""
    stream = before.copy()
    for item in items:
        _feed(stream, _parse(item), None)
    return _finish(stream, is_shared=False)


def _instructions(elements: Sequence[bytes]) -> int:
    """Return how many elements there are before the first that is no instruction."""
    for place, element in enumerate(elements):
        first = _parse(bytes(element))
        if not isinstance(first, dict) or first.get("role") not in _INSTRUCTING:
            return place
    return len(elements)


def _finish(stream: RequestStream, *, is_shared: bool = True) -> Look:
    """Return what a stream says. is_shared: it will be fed more, as another request's."""
    is_answering = stream.is_answering
    closed = stream.copy() if is_shared or is_answering else stream
    closed.close()
    # a question ends once: its answer is fed to what was closed
    before_answer = stream if is_answering else closed
    return Look(closed.samples, closed.said, stream.count, closed, before_answer)


def _feed(stream: RequestStream, element: Any, to_items: ToItems | None) -> None:
    if to_items is not None:
        stream.feed(to_items(element))
    elif isinstance(element, str):
        stream.feed([{"type": "message", "role": "user", "content": element}])
    else:
        stream.feed([element] if isinstance(element, dict) else ())


def _parse(raw: bytes) -> Any:
    try:
        # numbers are compared as floats
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _parse_leniently(raw)


def _parse_leniently(raw: bytes) -> Any:
    with suppress(orjson.JSONDecodeError):
        return loads_lenient(raw)
    return None
