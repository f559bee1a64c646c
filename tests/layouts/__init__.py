"""Stores as released versions wrote them: whatever comes later has to read them and go on from them.

A folder here is one layout, named after the version that wrote it:

    keys.jsonl      every key of the store, see `snapshot`
    answers.jsonl   what its server answered to whoever asked, see `answers`
    names.json      what the tests need to know: keys, ids by name, what was still to be done

`python -m tests.layouts.make NAME` writes one with the code that is checked out, by the steps of `story`. One that was
released is never written anew: if a later version writes something else, that gets a folder of its own. `0.1` is of
commit 71d4430, before the code was put into packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.layouts.snapshot import Snapshot

FOLDER = Path(__file__).parent
#: The layouts that there are.
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/keys.jsonl"))


@dataclass(frozen=True)
class Layout:
    """One store as it was written. answers: see `answers.Answer`. names: what its story tells of it."""

    snapshot: Snapshot
    answers: Sequence[dict[str, Any]]
    names: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> Layout:
        """Return the layout in the folder of this name."""
        folder = FOLDER / name
        answers = [orjson.loads(line) for line in (folder / "answers.jsonl").read_bytes().splitlines()]
        names = orjson.loads((folder / "names.json").read_bytes())
        return cls(Snapshot.parse((folder / "keys.jsonl").read_bytes()), answers, names)

    def write(self, name: str) -> None:
        """Write it into the folder of this name."""
        folder = FOLDER / name
        folder.mkdir(exist_ok=True)
        (folder / "keys.jsonl").write_bytes(self.snapshot.text())
        (folder / "answers.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in self.answers))
        (folder / "names.json").write_bytes(orjson.dumps(self.names, option=orjson.OPT_INDENT_2) + b"\n")
