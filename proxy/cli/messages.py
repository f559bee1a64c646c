"""What a supervisor and its workers tell each other.

A worker is this very command again, `CHANNEL_VARIABLE` in its environment. On its standard input it gets its
`Assignment`; then both talk over a socket pair, the channel. Down it come orders of one byte, a `CONNECTION` with the
descriptor of a client's socket; up it come `WorkerReport`s, a line of JSON each. Its end says that the other one died.
A bulk worker (`proxy.cli.bulk`) is a worker whose supervisor is the process that gives it its large requests.

Metrics do not go over the channel: each worker counts in files (`proxy.telemetry.cells`) that are named by
`Assignment.index`. An index belongs to one process at a time and is given again after that one ended, so its counters
go on, and there are no more files than workers at a time. Asking each worker would lose the counts of a dead one, and a
sum that falls is a reset to Prometheus, which then counts everything again.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from proxy.config.settings import Config, Secret
from proxy.http.passed import Passed
from storage import JobEntry

#: Holds the descriptor of the channel. It does not begin as settings do, among which it would be an error.
CHANNEL_VARIABLE = "_BRANCHLINE_WORKER_CHANNEL"

#: Take this connection; its descriptor comes along.
CONNECTION = b"c"
#: Take this connection, on which a request has begun: a second descriptor is that of a file with what is known of it,
#: which `write_passed` makes, and behind it what has come of it.
BEGUN = b"b"
#: Run this entry of the queue of background responses: a descriptor is that of a file which `write_entry` has made.
JOB = b"j"
#: Others take new connections from now on: leave when what is open has ended.
LEAVE = b"l"
#: Stop as on SIGTERM.
STOP = b"s"


class Assignment(msgspec.Struct, frozen=True):
    """What a worker is started with. index: its number from 1, of its own while it lives. config: all settings.

    cells: the folder in which it counts, '' for its own memory. is_bulk: it is there for large requests.
    """

    index: int
    config: Config
    cells: str = ""
    is_bulk: bool = False


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker takes connections."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker can't start, and ends. message: for the terminal. status: for the exit."""

    message: str
    status: int


class Load(msgspec.Struct, frozen=True, tag=True):
    """What a worker has to do. taken: connections and entries that it has taken, in all. open: connections."""

    taken: int
    open: int


class Answering(msgspec.Struct, frozen=True, tag=True):
    """A request is about to be answered that had begun elsewhere, or its client has left; or an entry has ended.

    number: see `Load.taken`.
    """

    number: int


class BulkProcesses(msgspec.Struct, frozen=True, tag=True):
    """The worker has bulk workers of its own. processes: those that live, by their indexes."""

    processes: dict[int, int]


WorkerReport: TypeAlias = Ready | Failed | Load | Answering | BulkProcesses

_decode_report = msgspec.json.Decoder(WorkerReport)
_decode_passed = msgspec.json.Decoder(Passed)
_decode_entry = msgspec.json.Decoder(JobEntry)


def write_assignment(assignment: Assignment) -> bytes:
    """Return an assignment as JSON, its secrets in the clear."""
    return msgspec.json.encode(assignment, enc_hook=str)


def read_assignment(data: bytes) -> Assignment:
    """Return the assignment that was written; ValueError for anything else."""
    return msgspec.json.decode(data, type=Assignment, dec_hook=lambda _, value: Secret(value))


def write_report(report: WorkerReport) -> bytes:
    """Return a report as one line."""
    return msgspec.json.encode(report) + b"\n"


def read_report(line: bytes) -> WorkerReport:
    """Return the report of a line; ValueError for anything else."""
    report: WorkerReport = _decode_report.decode(line)
    return report


def write_passed(passed: Passed) -> bytes:
    """Return what is known of a request as one line."""
    return msgspec.json.encode(passed) + b"\n"


def read_passed(line: bytes) -> Passed:
    """Return what is known of a request; ValueError for anything else."""
    passed: Passed = _decode_passed.decode(line)
    return passed


def write_entry(entry: JobEntry) -> bytes:
    """Return an entry of the queue as JSON."""
    return msgspec.json.encode(entry)


def read_entry(data: bytes) -> JobEntry:
    """Return the entry that was written; ValueError for anything else."""
    entry: JobEntry = _decode_entry.decode(data)
    return entry
