"""The rendering process: takes texts on its standard input, answers HTML on its standard output, until that ends.

    in   4 bytes length, JSON {"job": "markdown", "text": …, "seconds": 0.3}
         or {"job": "search", "sought": …, "items": […]}, {"job": "compare", "first": …, "second": …}
    out  4 bytes length, JSON {"result": …, "seconds": 0.004}; first of all {"result": "ready"}

Whoever takes longer than `seconds` of a processor ends the process: a regular expression can't be told to stop.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import IO, Any

import orjson

_LENGTH_BYTES = 4


def pack_message(message: Any) -> bytes:
    """Return a message with its length before it."""
    body = orjson.dumps(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def run_worker() -> None:
    """Work until there is nothing more to read."""
    from proxy.page.content.render import to_html
    from proxy.page.content.search import matches, word_diff

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # nice to those who serve
    with suppress(OSError):
        os.nice(5)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    to_html("```python\nready = True\n```")
    _tell(target, "ready", 0.0)
    while (task := _next(source)) is not None:
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, task["seconds"])
        result: Any
        if task["job"] == "markdown":
            result = to_html(task["text"])
        elif task["job"] == "search":
            result = matches(task["sought"], task["items"])
        else:
            result = word_diff(task["first"], task["second"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        _tell(target, result, time.process_time() - start)


def _next(source: IO[bytes]) -> Any:
    head = source.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    return orjson.loads(source.read(int.from_bytes(head, "big")))


def _tell(target: IO[bytes], result: Any, seconds: float) -> None:
    target.write(pack_message({"result": result, "seconds": seconds}))
    target.flush()


if __name__ == "__main__":
    run_worker()
