"""Sequences of requests and answers, and what must be recorded of each: `tests/recognition_cases`."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.recognised import CASES, Record


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_sequence_is_recorded_as_what_it_was(path: Path):
    case = orjson.loads(path.read_bytes())
    record, names, found = Record(), dict[str, str](), []
    for number, step in enumerate(case["steps"]):
        taken, expected = record.take(step), step["expect"]
        found.append(taken)
        where = f"step {number} of {path.stem}: {taken}"
        assert taken.action == expected["action"], where
        if "conversation" in expected:
            assert names.setdefault(expected["conversation"], taken.conversation) == taken.conversation, where
        if "line" in expected:
            assert taken.line == expected["line"], where
        if "new_items" in expected:
            assert taken.new_items == expected["new_items"], where
    assert len(set(names.values())) == len(names)
    for one, other in case.get("distinct", ()):
        assert found[one].conversation != found[other].conversation
