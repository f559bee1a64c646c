"""Recorded answers of real upstreams, kept as files in tests/upstream_samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson

_FOLDER = Path(__file__).parent / "upstream_samples"


class Sample(NamedTuple):
    """One recorded exchange: the JSON that was sent, and the answer with its raw body."""

    request: dict[str, Any]
    status: int
    content_type: str
    body: bytes


def sample_names() -> list[str]:
    """Return the names of all recordings, sorted; use it with `pytest.mark.parametrize`."""
    return sorted(path.stem for path in _FOLDER.glob("*.txt"))


def load_sample(name: str) -> Sample:
    """Return the recording `name` (a file's name without `.txt`)."""
    head, _, answer = (_FOLDER / f"{name}.txt").read_bytes().partition(b"\n### response ")
    request = orjson.loads(head.removeprefix(b"### request\n"))
    status_line, _, body = answer.partition(b"\n")
    status, _, content_type = status_line.decode().partition(" ")
    return Sample(request, int(status), content_type, body)
