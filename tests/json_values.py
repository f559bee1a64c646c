"""JSON as a stranger sends it: values of any kind, often under the names that are looked at."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["", "auto", "message", "user", "item_reference", "conv_1", "msg_1", "MAIN", "..", "\ud800", "\x00"]
    )
)


def values(names: list[str]) -> st.SearchStrategy[Any]:
    """Any JSON value, whose objects often have fields of these names."""
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(names) | st.text(max_size=6), inner, max_size=5)
        ),
        max_leaves=12,
    )


def objects(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A JSON object with fields of these names, and values of any kind."""
    return st.dictionaries(st.sampled_from(names), values(names), max_size=6)


@st.composite
def altered(draw: st.DrawFn, value: Any, names: list[str]) -> Any:
    """A JSON value with one part of it replaced, left out or doubled."""
    value = copy.deepcopy(value)
    where = value
    while True:
        places = list(where) if isinstance(where, dict) else list(range(len(where)))
        if not places:
            return value
        place = draw(st.sampled_from(places))
        inner = where[place]
        if isinstance(inner, dict | list) and inner and draw(st.booleans()):
            where = inner
            continue
        match draw(st.sampled_from(["replace", "drop", "double"])):
            case "drop":
                del where[place]
            case "double" if isinstance(where, list):
                where.insert(place, copy.deepcopy(inner))
            case _:
                where[place] = draw(values(names))
        return value
