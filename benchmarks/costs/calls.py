"""Where a turn's processor time goes: how often each function is called for one, and what it takes, as cProfile counts.

    python -m benchmarks.costs.calls [--kinds single,conversation,chain] [--recording on] [--turns 40] [--top 40]

16 clients take stored turns at once, as in `make bench`. Functions written in Python are counted; the time of what is
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
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.performance.load import Dialogue, Tally, dialogues
from benchmarks.performance.target import Memory, Target, model_server
from benchmarks.performance.turns import KINDS
from benchmarks.processes import command, free_port, listening, until
from benchmarks.wire import together
from proxy.cli.main import main as run_command

#: Begins counting in the server, and ends it.
TOGGLE = signal.SIGUSR1
CLIENTS, TRIAL_TURNS = 16, 3

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
    """Serve; between two signals count calls, which are written to `output` then."""
    running: list[cProfile.Profile] = []

    def toggle(_number: int, _frame: FrameType | None) -> None:
        if not running:
            running.append(cProfile.Profile(time.thread_time, builtins=False))
            running[0].enable()
            return
        profile = running.pop()
        profile.disable()
        part = output.with_suffix(".part")
        profile.dump_stats(part)
        part.rename(output)

    signal.signal(TOGGLE, toggle)
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
                names = [f"{kind}-{client}" for client in range(CLIENTS)]
                async with dialogues(target, KINDS[kind], names) as opened:
                    await together(*(each.begin() for each in opened))
                    await take(opened, TRIAL_TURNS)
                    os.kill(pid, TOGGLE)
                    await take(opened, options.turns)
                    os.kill(pid, TOGGLE)
                await until(output.exists)
                tell(kind, list(functions(output, CLIENTS * options.turns)), options.top)
                output.unlink()


def main() -> None:
    """Measure; with a file and options of `branchline serve` instead, be the server that is measured."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        serve(Path(sys.argv[1]), sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of: %(default)s")
    parser.add_argument("--recording", default="off", choices=("on", "keys", "off"))
    parser.add_argument("--turns", type=int, default=40, help="of each of 16 clients (default: %(default)s)")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="print the N functions that take most")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
