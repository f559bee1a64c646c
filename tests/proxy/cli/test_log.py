"""The log of a serving process: what is written together, what at once, and that nothing is lost."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys

import pytest

from proxy.cli.log import WHOLE_WRITE_BYTES, LineFormatter, LineHandler, LineRecord

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


def test_a_time_is_spelled_as_logging_does():
    ours, theirs = LineFormatter(), logging.Formatter(PATTERN)
    for created in (0.0, 0.9994, 0.99951, 1.0, 1.001, 1764404999.999, 1764405000.0, 86400.25):
        record = logging.makeLogRecord({"name": "lines", "msg": "x", "created": created})
        record.msecs = int((created - int(created)) * 1000) + 0.0
        assert ours.format(record) == theirs.format(record)


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
    ours, theirs = [LineFormatter().format(record) for record in made]
    assert ours == theirs


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise RuntimeError('broken')", "loop.stop()"])
def test_nothing_is_lost_when_the_process_ends(end: str):
    code = f"""
import asyncio, logging
from proxy.cli.process import set_up_logging
set_up_logging("info")
async def main():
    loop = asyncio.get_running_loop()
    logging.getLogger("proxy.end").info("the last line")
    {end}
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    assert "INFO proxy.end: the last line\n" in ended.stderr
