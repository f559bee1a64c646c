"""The normalised stream of a request's items, as a keyed rolling hash, sampled after each answer. Pure.

    u text      a question: user messages that follow each other
    a text      an answer's text, without the `<think>…</think>` that it begins with
    c name args a call of a client's tool, after the text of its answer

Texts are in NFC without white space, and those of one kind that follow each other are one: so messages and parts may be
merged or split. Not in it: ids, status, phase, annotations, logprobs, reasoning, hosted calls, system and developer
messages, what tools put out, media. So a resent history leads to the same digests as the turns that it is made of.

A digest is keyed by the installation's secret, the owner and the end user: elsewhere it says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from proxy.protocol.item_types import Item, item_type_of
from proxy.recognition.canonical import canonical_arguments, canonical_text, without_thought
from proxy.recognition.content import is_context, output_text, read_content

#: Bytes of a digest, and of the strict ones, which only tell that something differs.
DIGEST_BYTES, STRICT_BYTES = 16, 8
#: What stands before each text and call; no text has it.
_QUESTION, _ANSWER, _CALL, _NAME_END = b"\x00u", b"\x00a", b"\x00c", b"\x00n"
_OUTPUT, _MEDIA, _UNKNOWN = b"\x00o", b"\x00m", b"\x00r"
#: Whose messages are in the stream; others instruct.
_SPEAKERS = ("user", "assistant")
#: Where calls of other kinds of clients' tools say what they are to do.
_ACTIONS = ("action", "operation", "arguments", "input")


class Hash(Protocol):
    """A hash that goes on."""

    def update(self, data: bytes, /) -> None:
        """Take more."""
        ...

    def copy(self) -> Hash:
        """Return another one that goes on from here."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all so far."""
        ...


class Outputs(NamedTuple):
    """What a tool put out: its element and its call's id. before: the one before it, None for the first.

    Each knows those before it, so that the samples of a thousand calls share what they have in common.
    """

    element: int
    call_id: str
    before: Outputs | None


class Sample(NamedTuple):
    """What a request says up to the end of an answer in it.

    end: how many elements that is. full: digest of all; anchor: of the answers; pair: of the last question and the last
    answer, b"" if there is no question. length, pair_length: characters that anchor and pair are of. strict: digest of
    texts as they are, of media and of what tools put out, too. last_output: of tools, the last one since the last text;
    see `outputs`.
    """

    end: int
    full: bytes
    anchor: bytes
    pair: bytes
    length: int
    pair_length: int
    strict: bytes
    last_output: Outputs | None = None

    def outputs(self) -> list[tuple[int, str]]:
        """Return what tools put out since the last text, as (element, call id), in order."""
        found, one = [], self.last_output
        while one is not None:
            found.append((one.element, one.call_id))
            one = one.before
        return found[::-1]


class TurnDigests(NamedTuple):
    """What leads to a turn later, see `Sample`. Those that are b"" lead nowhere: it has no answer, or no question."""

    full: bytes
    anchor: bytes
    pair: bytes
    length: int
    pair_length: int
    strict: bytes


def stream_key(secret: bytes, owner: str, end_user: str) -> bytes:
    """Return the key of all digests of one owner and end user. end_user: see `RequestMarks`."""
    named = hashlib.blake2b(key=secret[:64], digest_size=32, person=b"branchline")
    for text in (owner, end_user):
        data = text.encode("utf-8", "surrogatepass")
        named.update(b"%d:%b" % (len(data), data))
    return named.digest()


class _Hashes(NamedTuple):
    """Hashes of one key that have taken nothing: to copy one is a quarter of making it."""

    full: Hash
    anchor: Hash
    pair: Hash
    tail: Hash
    question: Hash
    said: Hash
    strict: Hash


@lru_cache(1024)
def _hashes(key: bytes) -> _Hashes:
    def fresh(purpose: bytes) -> Hash:
        return hashlib.blake2b(key=key, digest_size=DIGEST_BYTES, person=purpose)

    strict = hashlib.blake2b(key=key, digest_size=STRICT_BYTES)
    asked, said = fresh(b"question"), fresh(b"said")
    return _Hashes(fresh(b"full"), fresh(b"anchor"), fresh(b"pair"), fresh(b"tail"), asked, said, strict)


class RequestStream:
    """The stream of elements that are fed one after the other. key: see `stream_key`.

    tells_said: whether `said` is wanted, which leads anywhere in sessions only.
    """

    __slots__ = (
        "_anchor",
        "_calls",
        "_full",
        "_hashes",
        "_is_said",
        "_last",
        "_last_strict",
        "_length",
        "_outputs",
        "_pair",
        "_pair_length",
        "_question",
        "_question_length",
        "_run",
        "_run_end",
        "_strict",
        "_tail",
        "_tells_said",
        "_texts",
        "count",
        "said",
        "samples",
    )

    def __init__(self, key: bytes, *, tells_said: bool = True) -> None:
        self._hashes = fresh = _hashes(key)
        self._tells_said = tells_said
        self.count = 0
        self.samples: list[Sample] = []
        self.said: list[tuple[int, bytes]] = []
        self._full = fresh.full.copy()
        self._anchor = fresh.anchor.copy()
        self._strict = fresh.strict.copy()
        #: Of the last question and what was answered, and of what came behind the last text; None before there is any.
        self._pair: Hash | None = None
        self._tail: Hash | None = None
        #: The kind of the last text or call in the hash, and in the strict one.
        self._last = self._last_strict = b""
        self._length = self._pair_length = self._question_length = 0
        self._question: bytes | None = None
        self._run = b""
        self._run_end = 0
        self._is_said = False
        self._texts: list[str] = []
        self._calls: list[bytes] = []
        self._outputs: Outputs | None = None

    def copy(self) -> RequestStream:
        """Return another stream that goes on from here."""
        twin = RequestStream.__new__(RequestStream)
        pair, tail = self._pair, self._tail
        twin._go_on(  # noqa: SLF001 (another one like it)
            (self._full.copy(), self._anchor.copy(), self._strict.copy()),
            (pair and pair.copy(), tail and tail.copy()),
            (self.samples.copy(), self.said.copy(), self._texts.copy(), self._calls.copy()),
            (self._hashes, self._tells_said, self.count, self._outputs, self._is_said),
            (self._last, self._last_strict, self._run, self._run_end),
            (self._question, self._question_length, self._length, self._pair_length),
        )
        return twin

    def _go_on(self, *state: Any) -> None:
        """Take over where another one is. state: in the order of `copy`."""
        hashes, of_last, lists, shared, run, lengths = state
        self._full, self._anchor, self._strict = hashes
        self._pair, self._tail = of_last
        self.samples, self.said, self._texts, self._calls = lists
        self._hashes, self._tells_said, self.count, self._outputs, self._is_said = shared
        self._last, self._last_strict, self._run, self._run_end = run
        self._question, self._question_length, self._length, self._pair_length = lengths

    def feed(self, items: Iterable[Item]) -> None:
        """Take the items of the next element: one of `input`, or those that a message stands for."""
        for item in items:
            self._take(item)
        self.count += 1

    def close(self) -> None:
        """End what has not ended: the last question, behind which an answer may be fed, or the last answer."""
        if self._run == _QUESTION:
            self._end_question()
            self._run = b""
        else:
            self._end_answer()

    def keep_last(self) -> None:
        """Forget what was found before the last answer: whoever goes on from here looks for nothing else."""
        self.samples = self.samples[-1:]
        self.said = []

    @property
    def is_answering(self) -> bool:
        """Whether what comes next may belong to the same answer."""
        return self._run == _ANSWER

    def question(self) -> bytes:
        """Return the digest of all that was asked: of a closed stream, outputs and media since the last text too."""
        asked = self._hashes.question.copy()
        asked.update(self._full.digest() + (self._tail or self._hashes.tail).digest())
        return asked.digest()

    def _take(self, item: Item) -> None:
        kind = item.get("type", "message")
        if kind == "message":
            self._take_message(item)
            return
        row = item_type_of(kind if isinstance(kind, str) else "")
        if row.is_output:
            self._take_output(item)
        elif row.is_call and row.needs_call_id:
            self._begin_answer()
            self._calls.append(_call(kind, item))
            self._note(_CALL, self._calls[-1])
        elif kind == "item_reference":
            self.close()
            self._run = b""
            self._add(_UNKNOWN, str(item.get("id")))
        else:
            self._begin_answer()
            # what a hosted tool did may be all of an answer; what a model thought is none
            self._is_said = self._is_said or row.is_call

    def _take_message(self, item: Item) -> None:
        role, content = item.get("role"), item.get("content")
        if role not in _SPEAKERS:
            return
        text, media = read_content(content)
        if role == "assistant":
            self._begin_answer()
            self._is_said = True
            self._note(_ANSWER, text.encode("utf-8", "surrogatepass"))
        else:
            self._begin_question()
            if self._tells_said and not is_context(text):
                self.said.append((self.count, self._said(text, media)))
            self._note(_QUESTION, text.encode("utf-8", "surrogatepass"))
        self._texts.append(text)
        for one in media:
            self._put_behind(_MEDIA + one)
            self._note(_MEDIA, one)

    def _said(self, text: str, media: Sequence[bytes]) -> bytes:
        digest = self._hashes.said.copy()
        digest.update(b"\x00".join([canonical_text(text).encode("utf-8", "surrogatepass"), *media]))
        return digest.digest()

    def _take_output(self, item: Item) -> None:
        if self._run == _ANSWER:
            self._end_answer()
        body = output_text(item)
        self._outputs = Outputs(self.count, str(item.get("call_id") or ""), self._outputs)
        self._put_behind(_OUTPUT + canonical_text(body).encode("utf-8", "surrogatepass"))
        self._note(_OUTPUT, body.encode("utf-8", "surrogatepass"))

    def _put_behind(self, data: bytes) -> None:
        if self._tail is None:
            self._tail = self._hashes.tail.copy()
        self._tail.update(data)

    def _begin_question(self) -> None:
        if self._run == _QUESTION:
            return
        if self._run == _ANSWER:
            self._end_answer()
        self._run = _QUESTION
        self._outputs = None

    def _begin_answer(self) -> None:
        if self._run != _ANSWER:
            if self._run == _QUESTION:
                self._end_question()
            self._run = _ANSWER
        self._run_end = self.count + 1

    def _end_question(self) -> None:
        text = canonical_text("".join(self._texts))
        self._texts = []
        self._add(_QUESTION, text)
        pair = self._pair = self._hashes.pair.copy()
        pair.update(text.encode("utf-8", "surrogatepass"))
        self._question, self._question_length = pair.digest(), len(text)
        self._pair_length = len(text)

    def _end_answer(self) -> None:
        text = without_thought(canonical_text("".join(self._texts)))
        calls, is_said = self._calls, self._is_said
        self._texts, self._calls, self._is_said = [], [], False
        if self._run != _ANSWER or not (text or calls or is_said):
            return
        if text or not calls:
            self._add_answer(text)
        for call in calls:
            for each in (self._full, self._anchor, self._pair):
                # without a question there is no pair
                if each is not None:
                    each.update(call)
            self._length += len(call)
            self._pair_length += len(call)
            self._last = _CALL
        self._sample()

    def _add_answer(self, text: str) -> None:
        if self._last != _ANSWER:
            self._pair = None
            if self._question is not None:
                self._pair = self._hashes.pair.copy()
                self._pair.update(self._question + _ANSWER)
            self._pair_length = self._question_length
            self._outputs = None
            self._tail = None
            self._anchor.update(_ANSWER)
        data = text.encode("utf-8", "surrogatepass")
        self._anchor.update(data)
        if self._pair is not None:
            self._pair.update(data)
        self._length += len(text)
        self._pair_length += len(text)
        self._add(_ANSWER, text)

    def _add(self, kind: bytes, text: str) -> None:
        if self._last != kind:
            self._full.update(kind)
            self._last = kind
        self._full.update(text.encode("utf-8", "surrogatepass"))

    def _note(self, kind: bytes, data: bytes) -> None:
        if self._last_strict != kind:
            self._strict.update(kind)
            self._last_strict = kind
        self._strict.update(data)

    def _sample(self) -> None:
        self.samples.append(
            Sample(
                self._run_end,
                self._full.digest(),
                self._anchor.digest(),
                self._pair.digest() if self._pair is not None else b"",
                self._length,
                self._pair_length,
                self._strict.digest(),
                self._outputs,
            )
        )


def _call(kind: str, item: Item) -> bytes:
    """Return a call as the stream has it: its tool, and what that is to do."""
    name = str(item.get("name") or kind)
    if kind == "custom_tool_call":
        said = canonical_text(str(item.get("input") or ""))
    else:
        value = next((item[field] for field in _ACTIONS if item.get(field) is not None), None)
        said = canonical_arguments(_without_nulls(value) if kind != "function_call" else value)
    return _CALL + name.encode("utf-8", "surrogatepass") + _NAME_END + said.encode("utf-8", "surrogatepass")


def _without_nulls(value: Any) -> Any:
    """Return an action without what is null: clients add such fields, or drop them."""
    if type(value) is dict:
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if type(value) is list else value
