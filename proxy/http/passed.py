"""What goes along with a request that one process passes on to another."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from storage import Allowance


@dataclass(frozen=True, slots=True)
class Passed:
    """What another process has found out of the first request of a connection that it has passed on.

    request_id: its id. began: when it came, by `time.perf_counter`, which all processes share. allowance: how its
    caller's requests stand with this one; None where they are not counted. is_told: it is counted already, and its line
    is written elsewhere.
    """

    request_id: str
    began: float
    allowance: Allowance | None = None
    is_told: bool = False


#: What is known of a request that another process has passed on.
PASSED: web.RequestKey[Passed] = web.RequestKey("passed", Passed)
