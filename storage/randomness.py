"""Randomness: hex digits for ids and tokens, from the system's generator, drawn ahead.

A turn takes five such numbers. Drawn one by one, each is a call of the kernel that costs more than all the rest of
making an id.
"""

from __future__ import annotations

import os

#: Digits that one number may have, and numbers that are drawn at a time.
MAX_RANDOM_DIGITS = 32
_NUMBERS = 128

#: What was drawn and not given out yet. Taking one from a list is atomic: no two threads get the same.
_drawn: list[str] = []
# nor do two processes
os.register_at_fork(after_in_child=_drawn.clear)


def random_hex(digits: int) -> str:
    """Return so many random hex digits, at most `MAX_RANDOM_DIGITS`; fit for what nobody may guess."""
    while True:
        try:
            return _drawn.pop()[:digits]
        except IndexError:
            text = os.urandom(_NUMBERS * MAX_RANDOM_DIGITS // 2).hex()
            _drawn.extend([text[at : at + MAX_RANDOM_DIGITS] for at in range(0, len(text), MAX_RANDOM_DIGITS)])
