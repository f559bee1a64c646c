"""How much is tried of what could be tried without end: a share by default, all where DEEP=1 is in the environment.

Only more of the same kind is left to a deep run: further seeds and examples, larger sizes. Nothing of which there is
one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

Seed = TypeVar("Seed")

#: Whether this run tries all: `make test-deep`.
DEEP = os.environ.get("DEEP", "0") != "0"
#: Whether the store's tests run on fakeredis besides: `.ci/run` has it so on the newest CPython, and a deep run.
ON_FAKE = DEEP or os.environ.get("ON_FAKE", "0") != "0"
#: One in so many examples of Hypothesis is tried by default.
SHARE = 5


def examples(count: int) -> int:
    """Return how many examples Hypothesis is to make where a deep run makes `count`."""
    return count if DEEP else max(1, count // SHARE)


def few(seeds: Sequence[Seed], count: int) -> Sequence[Seed]:
    """Return the first `count` of seeds, or all of them in a deep run; the first ones have all kinds among them."""
    return seeds if DEEP else seeds[:count]


def size(usual: int, deep: int) -> int:
    """Return how large something is to be that a deep run makes larger."""
    return deep if DEEP else usual
