"""Recorded answers of real upstreams, kept as files in tests/upstream_samples and tests/upstream_streams."""

from __future__ import annotations

from collections.abc import Sequence
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


_STREAMS = Path(__file__).parent / "upstream_streams"


class ServerStream(NamedTuple):
    """The bytes of a stream as a real server sends them, and what they mean (expected.json)."""

    content_type: str
    body: bytes
    expected: dict[str, Any]

    def accept(self, events: Sequence[dict[str, Any]]) -> None:
        """Fail unless the client's `events` say what the stream means."""
        expected, response = self.expected, events[-1]["response"]
        output = response["output"]
        assert response["status"] == expected["status"]
        assert [item["type"] for item in output] == expected["output"]
        assert _said(output, "message", "content") == expected["text"]
        assert _pieces(events, "response.output_text.delta") == expected["sum_of_text_deltas"]
        if "reasoning" in expected:
            assert _said(output, "reasoning", "content") == expected["reasoning"]
            assert _said(output, "reasoning", "summary") == ""
            assert _pieces(events, "response.reasoning_text.delta") == expected["reasoning"]
        calls = [item for item in output if item["type"] == "function_call"]
        cities = expected.get("arguments_contain", [])
        assert [orjson.loads(call["arguments"]) for call in calls] == [{"city": city} for city in cities]
        assert len({call["call_id"] for call in calls}) == len(cities)


def stream_names() -> list[str]:
    """Return the names of all streams of real servers, sorted."""
    return sorted(path.stem for path in _STREAMS.glob("*.sse"))


def load_stream(name: str) -> ServerStream:
    """Return the stream `name`."""
    expected = orjson.loads((_STREAMS / "expected.json").read_bytes())[name]
    return ServerStream(expected["content_type"], (_STREAMS / f"{name}.sse").read_bytes(), expected)


def _said(output: Sequence[dict[str, Any]], kind: str, container: str) -> str:
    items = [item for item in output if item["type"] == kind]
    return "".join(part["text"] for item in items for part in item.get(container) or ())


def _pieces(events: Sequence[dict[str, Any]], kind: str) -> str:
    return "".join(event["delta"] for event in events if event["type"] == kind)
