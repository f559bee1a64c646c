"""Pairing: which streamed item each item of a final output is, when ids, calls, texts or only the order tell. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from proxy.protocol.item_types import Item
from proxy.relay.draft import Draft
from proxy.relay.item import as_text, type_name
from proxy.relay.text import FIELD_STREAMS

#: One key for each item; None where an item has none of that kind.
_Keys = list[Hashable | None]


def match_output(drafts: Sequence[Draft], output: Sequence[Item]) -> list[Draft | None]:
    """Return, for each item of a final `output`, the streamed item that it is, None for one that never streamed.

    Tried in turn: an id that only one of them has, the `call_id`, the content, the rank, the type.
    """
    if _is_by_name(drafts, output):
        return [*drafts]
    free = set(range(len(drafts)))
    found: list[Draft | None] = [None] * len(output)
    for keys_of_drafts, keys_of_items in _keys(drafts, output):
        pool: defaultdict[Hashable, deque[int]] = defaultdict(deque)
        for number, key in enumerate(keys_of_drafts):
            if number in free and key is not None:
                pool[key].append(number)
        for rank, key in enumerate(keys_of_items):
            if found[rank] is None and key is not None and pool.get(key):
                number = pool[key].popleft()
                free.discard(number)
                found[rank] = drafts[number]
        if None not in found:
            break
    return found


def _is_by_name(drafts: Sequence[Draft], output: Sequence[Item]) -> bool:
    """Whether the output is the streamed items, in their order, each under the id that it had: mostly so."""
    ids = [item.get("id") for item in output]
    if len(ids) != len(drafts) or any(type(each) is not str or not each for each in ids) or len({*ids}) != len(ids):
        return False
    return all(
        draft.names and draft.names[-1] == each and draft.type == type_name(item)
        for draft, each, item in zip(drafts, ids, output, strict=True)
    )


def words_of(item: Item) -> str:
    """Return what an item says, in whatever shape: the text of a message or of reasoning, a call's arguments."""
    field = FIELD_STREAMS.get(type_name(item))
    if field is not None:
        return as_text(item.get(field.container))
    parts = [*_parts(item.get("summary")), *_parts(item.get("content"))]
    return "".join(as_text(part.get("text") or part.get("refusal")) for part in parts)


def is_same(draft: Draft, item: Item) -> bool:
    """Whether `item` is one that was told already: the same call, or the same words of the same kind."""
    if draft.type != type_name(item):
        return False
    call_id = item.get("call_id")
    if draft.call_id and isinstance(call_id, str) and call_id:
        return draft.call_id == call_id
    words, told = words_of(item), draft.snapshot()
    return bool(words) and words == words_of(told) and item.get("name") == told.get("name")


def likeness_of(draft: Draft, item: Item) -> int:
    """Tell how well `item` goes as the end of `draft`: see `Likeness`."""
    call_id = item.get("call_id")
    if call_id and draft.call_id and call_id != draft.call_id:
        return 0
    told, whole = words_of(draft.snapshot()), words_of(item)
    if not told or told == whole:
        return 3 if told else 1
    return 2 if whole.startswith(told) or told.startswith(whole) else 0


def _keys(drafts: Sequence[Draft], output: Sequence[Item]) -> Iterable[tuple[_Keys, _Keys]]:
    types = [draft.type for draft in drafts], [type_name(item) for item in output]
    ids = [draft.names[-1] if draft.names else None for draft in drafts], [item.get("id") for item in output]
    calls = [draft.call_id for draft in drafts], [item.get("call_id") for item in output]
    for names in (ids, calls):
        yield _named(types[0], names[0]), _named(types[1], names[1])
    yield [_content(draft.snapshot()) for draft in drafts], [_content(item) for item in output]
    yield list(enumerate(types[0])), list(enumerate(types[1]))
    yield list(types[0]), list(types[1])


def _named(types: list[str], names: Sequence[Any]) -> _Keys:
    pairs = [(kind, name) if isinstance(name, str) and name else None for kind, name in zip(types, names, strict=True)]
    counts = Counter(pairs)
    return [key if counts[key] == 1 else None for key in pairs]


def _content(item: Item) -> Hashable | None:
    words = words_of(item)
    return (type_name(item), str(item.get("name")), words) if words.strip() else None


def _parts(container: Any) -> list[Item]:
    parts = container if isinstance(container, list) else [container]
    return [{"text": part} if isinstance(part, str) else part for part in parts if isinstance(part, str | dict)]
