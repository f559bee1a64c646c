"""Plain histories: messages, calls of functions with their outputs, and what the model that is asked thought. Pure.

They go to a model as they are stored, sealed reasoning without its id. That is told by their bytes, unparsed. A history
grows at its end, so those that were found plain are remembered, whole: of one that begins with the same bytes only the
rest is looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple, cast

from proxy.context.item_form import CREATED_BY, INCOMPLETE, NO_ARGUMENTS, misfits, sealed_form

#: Within these a stored item has its id, of at most 64 characters, its type and its role.
HEAD_BYTES = 100
#: Between a stored item's id and its type; an item has it once, unless something like it is inside of it.
_TYPE = b'","type":"'
#: What follows, cut off at one length: the beginnings of the four types.
_MESSAGE, _CALL, _OUTPUT, _THOUGHT = b'message","role', b'function_call"', b"function_call_", b'reasoning","en'
_KIND_BYTES = len(_MESSAGE)
_WHOLE_OUTPUT = _TYPE + b'function_call_output"'
_ROLE = slice(len(b'message","role":"'), len(b'message","role":"assistant"'))
_ASSISTANT = b'assistant"'
_CALL_ID = b'"call_id":"'
#: How what reasoning led to begins, or more of it.
_LED_TO = (_MESSAGE + b'":"assistant"', _CALL, b'reasoning"')

#: Bytes of all histories that are remembered, and of one of them.
MAX_BYTES, MAX_BYTES_OF_ONE = 16 * 1024 * 1024, 4 * 1024 * 1024


class _Known(NamedTuple):
    """A history's items joined, as they are stored and as they are sent, which mostly is the same; their number."""

    stored: bytes = b""
    sent: bytes = b""
    number: int = 0

    @property
    def size(self) -> int:
        return len(self.stored) + (0 if self.sent is self.stored else len(self.sent))


_NOTHING = _Known()


class PlainHistories:
    """Those that were found plain lately. max_bytes: of all of them."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        #: By how the first item begins.
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def join(self, items: Sequence[bytes]) -> bytes | None:
        """Return what is sent of items, joined with commas, if they are plain, else None.

        Reasoning among them has to be of the model that is asked, or of nobody knows whom.
        """
        if not items:
            return b""
        name, stored = items[0][:HEAD_BYTES], b",".join(items)
        known = self._known.get(name, _NOTHING)
        if not stored.startswith(known.stored):
            known = _NOTHING
        if known.number == len(items):
            self._known.move_to_end(name)
            return known.sent
        # the bytes of whole objects begin no other objects
        rest = items[known.number :] if known.number else items
        forms = plain_forms(rest)
        if forms is None:
            return None
        is_same = forms is rest and known.sent is known.stored
        sent = stored if is_same else b",".join([known.sent, *forms] if known.number else forms)
        self._remember(name, _Known(stored, sent, len(items)))
        return sent

    def _remember(self, name: bytes, found: _Known) -> None:
        if found.size > min(MAX_BYTES_OF_ONE, self._max_bytes):
            return
        self._bytes += found.size - self._known.pop(name, _NOTHING).size
        self._known[name] = found
        while self._bytes > self._max_bytes:
            _, forgotten = self._known.popitem(last=False)
            self._bytes -= forgotten.size


def plain_form(item: bytes) -> bytes:
    """Return one item of a plain history as it is sent."""
    return sealed_form(item) or item


def plain_forms(items: Sequence[bytes]) -> Sequence[bytes] | None:
    """Return items as any model takes them that has thought what is among them, as far as their bytes show it.

    The very same if nothing has to be changed, None if they have to be looked into.
    """
    heads = b"\n".join([b"", *[item[:HEAD_BYTES] for item in items]])
    _, *types = heads.split(_TYPE)
    if len(types) != len(items) or heads.count(b'\n{"id":"') != len(items):
        return None
    kinds = [kind[:_KIND_BYTES] for kind in types]
    messages, calls, outputs, thoughts = map(kinds.count, (_MESSAGE, _CALL, _OUTPUT, _THOUGHT))
    is_known = messages + calls + outputs + thoughts == len(items)
    if not is_known or calls != outputs or heads.count(_WHOLE_OUTPUT) != outputs:
        return None
    are_messages = [kind == _MESSAGE for kind in kinds]
    roles = [kind[_ROLE] == _ASSISTANT for kind in compress(types, are_messages)]
    spoken = items if messages == len(items) else list(compress(items, are_messages))
    if any(misfits(spoken, roles)) or (calls and not _are_rounds(items, kinds)):
        return None
    return _with_thoughts(items, kinds, types) if thoughts else items


def _with_thoughts(items: Sequence[bytes], kinds: Sequence[bytes], types: Sequence[bytes]) -> Sequence[bytes] | None:
    """Return items with reasoning in its form, if all of it is sealed and led to something."""
    are_thoughts = [kind == _THOUGHT for kind in kinds]
    if not all(following.startswith(_LED_TO) for following in compress([*types[1:], b""], are_thoughts)):
        return None
    forms = [sealed_form(item) if is_thought else item for item, is_thought in zip(items, are_thoughts, strict=True)]
    return None if None in forms else cast("list[bytes]", forms)


def _are_rounds(items: Sequence[bytes], kinds: Sequence[bytes]) -> bool:
    """Whether each call has one output behind it, and neither needs a look into it."""
    calls = b"".join(compress(items, [kind == _CALL for kind in kinds]))
    if INCOMPLETE in calls or NO_ARGUMENTS in calls:
        return False
    are_tools = [kind in (_CALL, _OUTPUT) for kind in kinds]
    tools = b"\n".join(compress(items, are_tools))
    first, *pieces = tools.split(_CALL_ID)
    is_one_each = len(pieces) == sum(are_tools) and b"\n" not in first and all(b"\n" in one for one in pieces[:-1])
    if not is_one_each or CREATED_BY in tools:
        return False
    waiting: set[bytes] = set()
    for piece, kind in zip(pieces, compress(kinds, are_tools), strict=True):
        call_id = piece[: piece.find(b'"')]
        if kind == _CALL and call_id not in waiting:
            waiting.add(call_id)
        elif kind == _OUTPUT and call_id in waiting:
            waiting.remove(call_id)
        else:
            return False
    return not waiting
