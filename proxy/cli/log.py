"""Log of a serving process: lines on stderr, those of one iteration of the event loop written together."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from proxy.telemetry.lines import RequestLine, TurnLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

#: Most bytes of a write that a pipe takes as a whole (PIPE_BUF on Linux), so that lines of several processes don't mix.
WHOLE_WRITE_BYTES = 4096
#: For lines before `set_up_logging` says how they are to be.
_PLAIN = logging.Formatter()


class LineHandler(logging.Handler):
    """Writes each record as a line, or as several.

    What is less than a warning waits for the others of its iteration of the event loop. All else is written at once,
    behind what waits, and so is everything where no loop runs. `flush` writes what waits; `logging` calls it at exit.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        """Take down a record; no filter is asked."""
        # in fewer steps than `acquire` and `release` take
        lock = self.lock or nullcontext()
        with lock:
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take down a record."""
        try:
            line = f"{(self.formatter or _PLAIN).format(record)}\n"
        except Exception:
            self.handleError(record)
            return
        self._waiting.append(line)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif len(self._waiting) > 1:
            # it goes with the first of them
            return
        elif (loop := _running_loop()) is None:
            self.flush()
        else:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits. Raises nothing: a log that can't be written has nobody to tell."""
        self.acquire()
        try:
            lines, self._waiting = self._waiting, []
            for piece in _pieces(lines):
                self._stream.write(piece)
                self._stream.flush()
        except (OSError, ValueError):
            # the reader of the pipe has gone, or the stream is closed
            pass
        finally:
            self.release()


class LineRecord(logging.LogRecord):
    """A record with what lines say of it: when, how bad, what. `logging` looks at the place in the code each time."""

    def __init__(  # noqa: PLR0913 (logging's)
        self,
        name: str,
        level: int,
        pathname: str,
        lineno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        sinfo: str | None = None,
        **_: object,
    ) -> None:
        self.name, self.levelno, self.levelname = name, level, logging.getLevelName(level)
        if args and len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
            # a single mapping is what `%(name)s` is filled from, as in `logging`
            args = args[0]
        self.msg, self.args = msg, args
        self.exc_info, self.exc_text, self.stack_info = exc_info, None, sinfo
        self.pathname = self.filename = pathname
        self.lineno, self.funcName = lineno, func or ""
        self.created = time.time()
        self.msecs = self.created % 1 * 1000


class _Clock:
    """Spells times, that of a second once for all of its records. separator: between date and time."""

    def __init__(self, separator: str) -> None:
        self._pattern = f"%Y-%m-%d{separator}%H:%M:%S"
        self._second = -1
        self._spelled = self._zone = ""

    def spell(self, created: float, milliseconds: float) -> str:
        """Return local time to the millisecond with its zone, as RFC 3339 has it."""
        second = int(created)
        if second != self._second:
            local = time.localtime(second)
            zone = time.strftime("%z", local)
            self._second, self._zone = second, f"{zone[:3]}:{zone[3:]}"
            self._spelled = time.strftime(self._pattern, local)
        return f"{self._spelled}.{int(milliseconds):03d}{self._zone}"


class TextFormatter(logging.Formatter):
    """A line for people: when, how bad, who, what. process: what is behind the logger's name."""

    def __init__(self, process: str = "") -> None:
        super().__init__(f"%(asctime)s %(levelname)s %(name)s{process}: %(message)s")
        self._process = process
        self._clock = _Clock(" ")

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record; of one without a traceback as `logging` would make it, with fewer steps."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        start = f"{self._clock.spell(record.created, record.msecs)} {record.levelname} {record.name}{self._process}"
        return f"{start}: {record.getMessage()}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's)
        """Return local time to the millisecond, with its zone."""
        return self._clock.spell(record.created, record.msecs)


class JsonFormatter(logging.Formatter):
    """An object a line, for programs. process: what is behind the logger's name.

    A message that has fields (`proxy.telemetry.lines`) gives them beside its words; a traceback is part of the message.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__("%(message)s")
        self._process = process
        self._clock = _Clock("T")

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        line = record.msg
        if isinstance(line, RequestLine | TurnLine):
            message, fields = line.message, line.fields()
        else:
            message, fields = super().format(record), {}
        told = {
            "time": self._clock.spell(record.created, record.msecs),
            "level": record.levelname.lower(),
            "logger": f"{record.name}{self._process}",
            "message": message,
            **fields,
        }
        # not orjson: what a client sent may hold lone surrogates
        return json.dumps(told, separators=(",", ":"))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _pieces(lines: list[str]) -> Iterator[str]:
    """Yield lines joined to pieces that are written whole; a longer line is one of its own."""
    piece, size = "", 0
    for line in lines:
        # as long as it can become: the stream may write what its coding does not have as an escape
        length = len(line) if line.isascii() else len(line.encode("ascii", "backslashreplace"))
        if piece and size + length > WHOLE_WRITE_BYTES:
            yield piece
            piece, size = "", 0
        piece += line
        size += length
    if piece:
        yield piece
