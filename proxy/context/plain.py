"""Plain histories: messages, and calls of functions with their outputs, that go to a model as they are stored. Pure.

That is told by their bytes, unparsed. A history grows at its end, so those that were found plain are remembered, whole:
of one that begins with the same bytes only the rest is looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import compress

from proxy.context.item_form import CREATED_BY, INCOMPLETE, NO_ARGUMENTS, misfits

#: Within these a stored item has its id, of at most 64 characters, its type and its role.
HEAD_BYTES = 100
#: Between a stored item's id and its type; an item has it once, unless something like it is inside of it.
_TYPE = b'","type":"'
#: What follows, cut off at one length: the beginnings of the three types.
_MESSAGE, _CALL, _OUTPUT = b'message","role', b'function_call"', b"function_call_"
_KIND_BYTES = len(_MESSAGE)
_WHOLE_OUTPUT = _TYPE + b'function_call_output"'
_ROLE = slice(len(b'message","role":"'), len(b'message","role":"assistant"'))
_ASSISTANT = b'assistant"'
_CALL_ID = b'"call_id":"'

#: Bytes of all histories that are remembered, and of one of them.
MAX_BYTES, MAX_BYTES_OF_ONE = 16 * 1024 * 1024, 4 * 1024 * 1024


class PlainHistories:
    """Those that were found plain lately. max_bytes: of all of them."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        #: How the first item begins → the items joined, and their number.
        self._known: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()

    def join(self, items: Sequence[bytes]) -> bytes | None:
        """Return items joined with commas if they are plain, else None."""
        if not items:
            return b""
        name, joined = items[0][:HEAD_BYTES], b",".join(items)
        known, count = self._known.get(name, (b"", 0))
        # the bytes of whole objects begin no other objects
        start = count if joined.startswith(known) else 0
        if start < len(items) and not is_plain(items[start:]):
            return None
        if start < len(items) or len(joined) != len(known):
            self._remember(name, joined, len(items))
        else:
            self._known.move_to_end(name)
        return joined

    def _remember(self, name: bytes, joined: bytes, count: int) -> None:
        if len(joined) > min(MAX_BYTES_OF_ONE, self._max_bytes):
            return
        self._bytes += len(joined) - len(self._known.pop(name, (b"", 0))[0])
        self._known[name] = joined, count
        while self._bytes > self._max_bytes:
            _, (forgotten, _) = self._known.popitem(last=False)
            self._bytes -= len(forgotten)


def is_plain(items: Sequence[bytes]) -> bool:
    """Whether items go to any model as they are stored: as far as their bytes show it."""
    heads = b"\n".join([b"", *[item[:HEAD_BYTES] for item in items]])
    _, *types = heads.split(_TYPE)
    if len(types) != len(items) or heads.count(b'\n{"id":"') != len(items):
        return False
    kinds = [kind[:_KIND_BYTES] for kind in types]
    messages, calls, outputs = kinds.count(_MESSAGE), kinds.count(_CALL), kinds.count(_OUTPUT)
    if messages + calls + outputs != len(items) or calls != outputs or heads.count(_WHOLE_OUTPUT) != outputs:
        return False
    are_messages = [kind == _MESSAGE for kind in kinds]
    roles = [kind[_ROLE] == _ASSISTANT for kind in compress(types, are_messages)]
    spoken = list(compress(items, are_messages)) if calls else items
    if any(misfits(spoken, roles)):
        return False
    return not calls or _are_rounds(items, kinds)


def _are_rounds(items: Sequence[bytes], kinds: Sequence[bytes]) -> bool:
    """Whether each call has one output behind it, and neither needs a look into it."""
    calls = b"".join(compress(items, [kind == _CALL for kind in kinds]))
    if INCOMPLETE in calls or NO_ARGUMENTS in calls:
        return False
    are_tools = [kind != _MESSAGE for kind in kinds]
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
