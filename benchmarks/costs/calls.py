"""Where a turn's processor time goes: how often each function is called for one, and what it takes, as cProfile counts.

    python -m benchmarks.costs.calls [--kinds single,beginning,end] [--recording on] [--turns 40] [--top 40]

16 clients take stored turns at once, as in `make bench`. Of streams the beginning is counted by itself, up to the first
delta, and the end, the second and last delta included. Functions written in Python are counted; the time of what is
written in C counts where it is called, and a coroutine counts anew whenever it is resumed. The profiler makes calls
dearer than they are, and its clock is the thread's own: compare counts on any machine, and times with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.performance.load import Dialogue, Tally, WrongAnswer, dialogues, question
from benchmarks.performance.streams import open_used
from benchmarks.performance.target import Memory, Target, model_server
from benchmarks.performance.turns import KINDS
from benchmarks.processes import command, free_port, listening, until
from benchmarks.wire import Connection, together
from proxy.cli.main import main as run_command

#: Begins counting in the server, and ends it; has it write down what it has counted.
TOGGLE, TELL = signal.SIGUSR1, signal.SIGUSR2
CLIENTS, TRIAL_TURNS = 16, 3
#: Parts of a stream that are counted, and how many seconds its two deltas are apart: counting begins and ends between.
PARTS, APART_SECONDS = ("beginning", "end"), 1.0

#: What a function belongs to, by the first of these that its file's path has in it.
AREAS = {
    "recognition, recording": ("/recognition/", "proxy/recording/"),
    "the turn, context": (
        "proxy/turns/",
        "proxy/context/",
        "proxy/compaction/",
        "proxy/idempotency/",
        "proxy/streams/",
    ),
    "wire format, items, responses": ("proxy/protocol/", "proxy/relay/"),
    "HTTP, authentication, log": ("proxy/http/", "proxy/auth/", "proxy/api/", "proxy/cli/", "/logging/"),
    "metrics, traces": ("proxy/telemetry/",),
    "to the model server": ("proxy/upstream/",),
    "the store's client": ("storage/",),
    "our own, beside": ("proxy/",),
    "aiohttp": ("/aiohttp/", "/multidict/", "/yarl/"),
}
REST = "asyncio and others"


class Function(NamedTuple):
    """One function. calls: for a turn. us: of its own for a turn, what it calls not counted."""

    place: str
    area: str
    calls: float
    us: float


def serve(output: Path, arguments: Sequence[str]) -> None:
    """Serve; between two signals count calls, which are written to `output` after another one."""
    kept: list[cProfile.Profile] = []
    counts = False

    def toggle(_number: int, _frame: FrameType | None) -> None:
        nonlocal counts
        if not kept:
            kept.append(cProfile.Profile(time.thread_time, builtins=False))
        counts = not counts
        if counts:
            kept[0].enable()
        else:
            kept[0].disable()

    def write(_number: int, _frame: FrameType | None) -> None:
        part = output.with_suffix(".part")
        kept.pop().dump_stats(part)
        part.rename(output)

    signal.signal(TOGGLE, toggle)
    signal.signal(TELL, write)
    sys.argv = ["branchline", "serve", *arguments]
    run_command()


@asynccontextmanager
async def profiled(model: str, output: Path, recording: str) -> AsyncIterator[tuple[Target, int]]:
    """Run Branchline so that its calls can be counted; gives it, and its process id."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--upstream", f"{model}/v1", "--port", str(port), "--data-dir", folder]
        variables = {"BRANCHLINE_RECORDING_MODE": recording}
        ourselves = (sys.executable, "-m", "benchmarks.costs.calls", str(output))
        with command(*ourselves, *options, variables=variables) as started:
            url = f"http://127.0.0.1:{port}"
            await listening(url, started)
            yield Target("profiled", url, (started.pid,), remembers=frozenset(Memory), must=True), started.pid


async def take(opened: Sequence[Dialogue], turns: int) -> None:
    """Take so many turns of each dialogue, all dialogues at once."""

    async def whole(dialogue: Dialogue) -> None:
        for _ in range(turns):
            await dialogue.turn(tally)

    tally = Tally()
    await together(*map(whole, opened))


async def take_streams(connections: Sequence[Connection], begun: Callable[[], None]) -> None:
    """Take a stream a connection, all at once. begun: is called once the first delta of each has come."""
    waiting = set(connections)

    async def one(number: int, connection: Connection) -> None:
        def take(_: bytes) -> None:
            if connection in waiting:
                waiting.discard(connection)
                if not waiting:
                    begun()

        asked = question(f"stream-{number}", deltas=2, gap_us=int(APART_SECONDS * 1e6))
        body = b'{"model":"bench","stream":true,"input":[%s]}' % asked
        answer = await connection.request("POST", "/v1/responses", body, take)
        if answer.status != 200:
            raise WrongAnswer(f"{answer.status} {answer.body[:300]!r}")

    await together(*(one(number, connection) for number, connection in enumerate(connections)))


async def count_streams(target: Target, part: str, turns: int, toggle: Callable[[], None]) -> None:
    """Count a part of so many streams of each client. toggle: begins counting and ends it."""
    async with open_used(target, CLIENTS) as connections:
        await take_streams(connections, lambda: None)
        for _ in range(turns):
            if part == PARTS[0]:
                toggle()
            await take_streams(connections, toggle)
            if part == PARTS[1]:
                toggle()


async def count_turns(target: Target, kind: str, turns: int, toggle: Callable[[], None]) -> None:
    """Count so many turns of each client."""
    async with dialogues(target, KINDS[kind], [f"{kind}-{client}" for client in range(CLIENTS)]) as opened:
        await together(*(each.begin() for each in opened))
        await take(opened, TRIAL_TURNS)
        toggle()
        await take(opened, turns)
        toggle()


def functions(output: Path, turns: int) -> Iterator[Function]:
    """Yield what was called, for one turn."""
    for (path, line, name), (_, calls, seconds, _, _) in pstats.Stats(str(output)).stats.items():  # type: ignore[attr-defined]
        area = next((area for area, parts in AREAS.items() if any(part in path for part in parts)), REST)
        yield Function(f"{'/'.join(path.split('/')[-3:])}:{line} {name}", area, calls / turns, seconds * 1e6 / turns)


def tell(kind: str, called: Sequence[Function], top: int) -> None:
    """Print a table of areas, and the functions that take most."""
    areas: dict[str, list[Function]] = defaultdict(list)
    for each in called:
        areas[each.area].append(each)
    total = sum(each.us for each in called)
    print(f"\n| {kind} | time | calls |\n|---|---:|---:|")
    for area in sorted(areas, key=lambda name: -sum(each.us for each in areas[name])):
        share = sum(each.us for each in areas[area]) / total
        print(f"| {area} | {share:.0%} | {sum(each.calls for each in areas[area]):.0f} |")
    print(f"| in all | {total:.0f} us | {sum(each.calls for each in called):.0f} |")
    for each in sorted(called, key=lambda one: -one.us)[:top]:
        print(f"{each.calls:7.2f} calls {each.us:7.1f} us  {each.place}")


async def measure(options: argparse.Namespace) -> None:
    """Take turns of each kind and print what they called."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "calls"
        async with model_server() as model, profiled(model.url, output, options.recording) as (target, pid):
            for kind in options.kinds.split(","):
                count = count_streams if kind in PARTS else count_turns
                await count(target, kind, options.turns, partial(os.kill, pid, TOGGLE))
                os.kill(pid, TELL)
                await until(output.exists)
                tell(kind, list(functions(output, CLIENTS * options.turns)), options.top)
                output.unlink()


def main() -> None:
    """Measure; with a file and options of `branchline serve` instead, be the server that is measured."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        serve(Path(sys.argv[1]), sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join([*KINDS, *PARTS]), help="some of: %(default)s")
    parser.add_argument("--recording", default="off", choices=("on", "keys", "off"))
    parser.add_argument("--turns", type=int, default=40, help="of each of 16 clients (default: %(default)s)")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="print the N functions that take most")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
