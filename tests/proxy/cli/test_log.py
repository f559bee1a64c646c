"""The log of a serving process: what is written together, what at once, and that nothing is lost."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from proxy.cli.log import WHOLE_WRITE_BYTES, JsonFormatter, LineHandler, LineRecord, TextFormatter
from proxy.telemetry.lines import RequestLine, TurnLine
from proxy.telemetry.records import Attempt, TurnRecord
from proxy.telemetry.traces import Trace

#: The fields of a request's line behind its message, in their order.
FIELDS = [
    "request_id",
    "method",
    "route",
    "status",
    "ms",
    "bytes",
    "mode",
    "outcome",
    "response_id",
    "model",
    "upstream",
    "upstream_request_id",
    "attempts",
    "first_output_ms",
    "history_items",
    "input_tokens",
    "output_tokens",
    "trace_id",
    "span_id",
]
PATTERN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Writes(io.StringIO):
    """A stream that remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    def write(self, text: str) -> int:
        self.all.append(text)
        return len(text)


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def logger(writes: Writes) -> logging.Logger:
    made = logging.getLogger("tests.lines")
    made.setLevel(logging.INFO)
    made.propagate = False
    made.handlers[:] = [LineHandler(writes)]
    return made


async def test_the_lines_of_an_iteration_are_one_write(logger: logging.Logger, writes: Writes):
    for number in range(3):
        logger.info("line %d", number)
    assert writes.all == []
    await asyncio.sleep(0)
    assert writes.all == ["line 0\nline 1\nline 2\n"]
    logger.info("later")
    await asyncio.sleep(0)
    assert writes.all[1:] == ["later\n"]


async def test_a_warning_is_written_at_once_behind_what_waits(logger: logging.Logger, writes: Writes):
    logger.info("first")
    logger.warning("second")
    assert "".join(writes.all) == "first\nsecond\n"
    logger.info("third")
    await asyncio.sleep(0)
    assert "".join(writes.all) == "first\nsecond\nthird\n"


def test_outside_a_loop_every_line_is_written_at_once(logger: logging.Logger, writes: Writes):
    logger.info("starting")
    assert writes.all == ["starting\n"]


async def test_a_thread_writes_at_once(logger: logging.Logger, writes: Writes):
    await asyncio.to_thread(logger.info, "aside")
    assert "".join(writes.all) == "aside\n"


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
async def test_a_write_is_cut_at_the_end_of_a_line(logger: logging.Logger, writes: Writes, letter: str):
    lines = [letter * length for length in (10, 1500, 1900, 700, 5000, 1, 2)]
    for line in lines:
        logger.info("%s", line)
    await asyncio.sleep(0)
    assert "".join(writes.all) == "".join(f"{line}\n" for line in lines)
    assert all(text.endswith("\n") for text in writes.all)
    longer = [text for text in writes.all if len(text.encode(errors="backslashreplace")) > WHOLE_WRITE_BYTES]
    assert all(text.count("\n") == 1 for text in longer)
    assert len(writes.all) < len(lines)


async def test_a_stream_that_is_closed_disturbs_nobody(logger: logging.Logger, writes: Writes):
    writes.close()
    broken = io.StringIO()
    broken.close()
    logger.handlers[:] = [LineHandler(broken)]
    logger.warning("nobody reads this")


@pytest.fixture(params=["UTC", "Asia/Kolkata", "America/St_Johns"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone that this process lives in."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_a_time_has_its_zone():
    text, objects = TextFormatter(), JsonFormatter()
    for created in (0.0, 0.9994, 0.99951, 1.0, 1.001, 1764404999.999, 1764405000.0, 86400.25):
        record = logging.makeLogRecord({"name": "lines", "msg": "x", "created": created})
        record.msecs = int((created - int(created)) * 1000) + 0.0
        date, clock, *_ = text.format(record).split(" ")
        told = json.loads(objects.format(record))["time"]
        assert told == f"{date}T{clock}"
        assert created - 0.001 < datetime.fromisoformat(told).timestamp() <= created
        assert datetime.fromisoformat(told).utcoffset() is not None


@pytest.mark.parametrize("arguments", [(), ("a", 1), ({"a": 1},), ({},), None], ids=repr)
@pytest.mark.parametrize("failed", [False, True])
def test_a_record_makes_the_line_that_loggings_own_makes(arguments: tuple[object, ...] | None, failed: bool):
    text = {0: "100 %", 1: "%(a)s", 2: "%s: %d"}[len(arguments or ())] if arguments != ({},) else "%s"
    error = (ValueError, ValueError("broken"), None) if failed else None
    made = [
        kind("lines", logging.WARNING, "file.py", 7, text, arguments, error) for kind in (LineRecord, logging.LogRecord)
    ]
    for record in made:
        record.created, record.msecs = 86400.25, 250.0
    ours, theirs = [TextFormatter().format(record) for record in made]
    assert ours == theirs
    assert ours.partition(" lines: ")[2] == logging.Formatter(PATTERN).format(made[0]).partition(" lines: ")[2]


def told(message: object, *arguments: object, process: str = "", error: Any = None) -> Any:
    """The object that a line becomes."""
    record = LineRecord("proxy.lines", logging.WARNING, "file.py", 7, message, arguments, error)
    line = JsonFormatter(process).format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_line_as_an_object_has_what_it_says_and_nothing_else():
    found = told("%s failed", "it", process="[42]")
    assert list(found) == ["time", "level", "logger", "message"]
    assert (found["level"], found["logger"], found["message"]) == ("warning", "proxy.lines[42]", "it failed")
    assert told("\udce9 \U0001f600\n")["message"] == "\udce9 \U0001f600\n"


def test_a_traceback_is_part_of_the_message():
    try:
        raise ValueError("broken")
    except ValueError:
        found = told("it failed", error=sys.exc_info())
    assert list(found) == ["time", "level", "logger", "message"]
    assert found["message"].startswith("it failed\nTraceback (most recent call last):\n")
    assert found["message"].endswith("ValueError: broken")


def record_of_a_turn() -> TurnRecord:
    record = TurnRecord("stream", 10.0)
    record.outcome, record.model, record.response_id = "completed", "gpt-x", "resp_1"
    record.attempts = [Attempt("first", "gpt-x", 10.0), Attempt("second", "gpt-x", 10.1)]
    record.output, record.history = 10.25, 3
    record.usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    return record


def test_the_line_of_a_request_has_the_fields_of_its_turn():
    line = RequestLine(
        *("req_1", "POST", "/v1/responses", 200, 28.06, 1574, "up_1"), record_of_a_turn(), Trace(0xABC, 0xDEF, True)
    )
    assert str(line) == "POST /v1/responses 200 28.1 ms 1574 bytes req_1 upstream up_1"
    found = told(line)
    del found["time"]
    assert found == {
        "level": "warning",
        "logger": "proxy.lines",
        "message": "POST /v1/responses 200",
        "request_id": "req_1",
        "method": "POST",
        "route": "/v1/responses",
        "status": 200,
        "ms": 28.1,
        "bytes": 1574,
        "mode": "stream",
        "outcome": "completed",
        "response_id": "resp_1",
        "model": "gpt-x",
        "upstream": "second",
        "upstream_request_id": "up_1",
        "attempts": 2,
        "first_output_ms": 250.0,
        "history_items": 3,
        "input_tokens": 7,
        "output_tokens": 5,
        "trace_id": f"{0xABC:032x}",
        "span_id": f"{0xDEF:016x}",
    }
    assert list(found)[3:] == FIELDS


def test_fields_that_are_not_known_are_left_out():
    found = told(RequestLine("req_1", "GET", "/healthz", 200, 1.0, 15, "-", None, None))
    assert list(found)[4:] == ["request_id", "method", "route", "status", "ms", "bytes"]
    record = TurnRecord("background")
    record.outcome = "failed"
    found = told(TurnLine("ran for 1 s", "ran", "", 1000.0, "-", record))
    assert list(found)[3:] == ["message", "ms", "mode", "outcome"]


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise RuntimeError('broken')", "loop.stop()"])
def test_nothing_is_lost_when_the_process_ends(end: str):
    code = f"""
import asyncio, logging
from proxy.cli.process import set_up_logging
from proxy.config.settings import LogConfig
set_up_logging(LogConfig())
async def main():
    loop = asyncio.get_running_loop()
    logging.getLogger("proxy.end").info("the last line")
    {end}
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    assert "INFO proxy.end: the last line\n" in ended.stderr
