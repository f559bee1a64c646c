"""Plain histories: messages, calls of functions with their outputs, and what the model that is asked thought. Pure.

They go to a model as they are stored, sealed reasoning without its id. That is told by their bytes, unparsed. A history
grows at its end: what was found out of its beginning is remembered with it, and only the rest is looked at and joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple, cast

from proxy.context.item_form import (
    CREATED_BY,
    INCOMPLETE,
    NO_ARGUMENTS,
    is_fitting_message,
    misfits,
    sealed_form,
)
from storage import HistoryItems

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

#: So many items are looked at one by one: what a turn of a dialogue brings, its question and the answer before it.
FEW = 2
#: How long a piece of a joined history is at least before another one is begun: so much is copied for an item more.
PIECE_BYTES = 64 * 1024


class _Known(NamedTuple):
    """The beginning of a history that was found plain: how many items, and how they are sent, joined with commas.

    ahead: those at its end that a turn brought itself; the history has them once that turn is committed.
    """

    number: int = 0
    pieces: tuple[bytes, ...] = ()
    ahead: tuple[bytes, ...] = ()


_NOTHING = _Known()


def join_plain(items: Sequence[bytes], history: HistoryItems | None = None) -> Sequence[bytes] | None:
    """Return what is sent of items, joined with commas and cut into pieces, if they are plain, else None.

    Reasoning among them has to be of the model that is asked, or of nobody knows whom. history: what they begin with,
    if it was read from the store; it remembers what was found out.
    """
    known: _Known = _NOTHING if history is None else history.memo.get(_Known, _NOTHING)
    read = known.number - len(known.ahead)
    if known.ahead and tuple(items[read : known.number]) != known.ahead:
        known = _NOTHING
    forms = plain_forms(items[known.number :] if known.number else items)
    if forms is None:
        return None
    pieces = _joined(known.pieces, forms)
    if history is not None:
        history.memo[_Known] = _Known(len(items), pieces, tuple(items[len(history) :]))
    return pieces


def seen_plain(history: HistoryItems | None) -> int:
    """Return how many items at a history's beginning are known to be plain."""
    return 0 if history is None else min(history.memo.get(_Known, _NOTHING).number, len(history))


def _joined(pieces: tuple[bytes, ...], more: Sequence[bytes]) -> tuple[bytes, ...]:
    if not more:
        return pieces
    if not pieces:
        return (b",".join(more),)
    *before, last = pieces
    if len(last) < PIECE_BYTES:
        return (*before, b",".join((last, *more)))
    return (*pieces, b",".join((b"", *more)))


def plain_form(item: bytes) -> bytes:
    """Return one item of a plain history as it is sent."""
    return sealed_form(item) or item


def plain_forms(items: Sequence[bytes]) -> Sequence[bytes] | None:
    """Return items as any model takes them that has thought what is among them, as far as their bytes show it.

    The very same if nothing has to be changed, None if they have to be looked into.
    """
    if len(items) <= FEW and all(map(is_fitting_message, items)):
        return items
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
