"""The run of `make bench`: servers started, all measured, data and page written.

    python -m benchmarks [--quick] [--only turns,streams] [--peers smg,agentic-api,litellm | none] [--peer-folder DIR]

A full run takes about 20 minutes, a quick one 4. The data go to `docs/performance/`, and from there into the generated
sections of `docs/performance.md`; `--page` writes these anew without measuring anything. Linux only: processor time
and memory are read from the kernel, by process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.performance import page
from benchmarks.performance.special import (
    ImagesPlan,
    StoredPlan,
    WorkersPlan,
    measure_images,
    measure_stored,
    measure_workers,
)
from benchmarks.performance.statistics import BEFORE, UNRECORDED, Samples
from benchmarks.performance.streams import StreamsPlan, measure_first_byte, measure_streams
from benchmarks.performance.target import Model, Target, bare_relay, branchline, model_server
from benchmarks.performance.turns import DepthsPlan, TurnsPlan, measure_depths, measure_turns
from benchmarks.servers.peers import PEERS, Missing, install, version
from proxy import __version__

#: What is measured, in this order: the last one lowers the run's own priority.
MEASURES = ("turns", "depth", "first byte", "streams", "images", "stored", "workers")
#: Load average from which on a machine is too busy to be measured on.
BUSY = 1.0
#: A stream takes a socket here and two in the proxy.
OPEN_FILES = 8192


@dataclass(frozen=True)
class Plan:
    """How much of everything is done."""

    turns: TurnsPlan = field(default_factory=TurnsPlan)
    depths: DepthsPlan = field(default_factory=DepthsPlan)
    streams: StreamsPlan = field(default_factory=StreamsPlan)
    images: ImagesPlan = field(default_factory=ImagesPlan)
    stored: StoredPlan = field(default_factory=StoredPlan)
    workers: WorkersPlan = field(default_factory=WorkersPlan)


QUICK = Plan(
    TurnsPlan(repeats=2),
    DepthsPlan(depths=(1, 40, 300, 1000), repeats=2, turns=2, alone=6),
    StreamsPlan(
        gaps_us=((1, 1_000), (100, 10_000), (1_000, 40_000)), repeats=((1, 3), (100, 2), (1_000, 1)), openings=5
    ),
    ImagesPlan(repeats=2),
    StoredPlan(many=10_000, repeats=3),
    WorkersPlan(repeats=2),
)
#: In a quick run unless asked for: litellm takes twenty seconds to start and as much for each block of turns.
QUICK_PEERS = ("smg", "agentic-api")


class Run:
    """One run: what was measured of which servers, and what it says of itself."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._plan = QUICK if options.quick else Plan()
        self._chosen = options.only.split(",") if options.only else list(MEASURES)
        self._samples = Samples()
        self._notes: list[str] = []
        self._began = time.monotonic()
        #: Whether something gave a wrong answer, or none, that must not.
        self.failed = False

    async def measure(self) -> tuple[Samples, dict[str, Any]]:
        """Start the servers and measure what was chosen; returns all values and what describes the run."""
        load = os.getloadavg()[0]
        if load > BUSY:
            self._notes.append(
                "The machine had other work when this run began: a trial of the programs, no measurement."
            )
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(model_server())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bare = await stack.enter_async_context(bare_relay(model.url))
            ours = await stack.enter_async_context(branchline(f"{model.url}/v1"))
            others = await self._start_others(stack, f"{model.url}/v1") if "turns" in self._chosen else []
            peers = await self._start_peers(stack, folder, model.url)
            for name in self._chosen:
                self._say(f"{name} …")
                try:
                    beside = others if name == "turns" else []
                    failed = await self._one(name, model, [bare, ours, *beside, *peers])
                except Exception as exc:  # what else was measured is worth keeping
                    failed = {"THE RUN": f"{type(exc).__name__}: {exc}"}
                    self.failed = True
                self._note(name, failed)
        return self._samples, self._description(load, [peer.name for peer in peers])

    async def _one(self, name: str, model: Model, targets: list[Target]) -> dict[str, str]:
        plan, samples = self._plan, self._samples
        match name:
            case "turns":
                return await measure_turns(samples, [model.direct, *targets], plan.turns)
            case "depth":
                return await measure_depths(samples, [model.direct, *targets], plan.depths)
            case "first byte":
                return await measure_first_byte(samples, [model.direct, *targets], plan.streams)
            case "streams":
                return await measure_streams(samples, [model.direct, *targets], plan.streams)
            case "images":
                return await measure_images(samples, targets, plan.images)
            case "stored":
                await measure_stored(samples, model.url, plan.stored)
            case "workers":
                await measure_workers(samples, model.url, model.pid, plan.workers)
        return {}

    async def _start_others(self, stack: AsyncExitStack, upstream: str) -> list[Target]:
        """Start Branchline without recording, and the other state of it that was asked for."""
        unrecorded = branchline(upstream, UNRECORDED, variables={"BRANCHLINE_RECORDING_MODE": "off"})
        others = [await stack.enter_async_context(unrecorded)]
        if self._options.before is not None:
            others.append(await stack.enter_async_context(branchline(upstream, BEFORE, clone=self._options.before)))
        return others

    async def _start_peers(self, stack: AsyncExitStack, folder: Path, model: str) -> list[Target]:
        started = []
        for name in () if self._options.peers == "none" else self._options.peers.split(","):
            self._say(f"installing and starting {name} …")
            try:
                programs = await asyncio.to_thread(install, PEERS[name], self._options.peer_folder)
                started.append(await stack.enter_async_context(PEERS[name].start(programs, folder, model)))
            except (Missing, OSError, TimeoutError) as exc:
                self._notes.append(f"{name} was left out: {exc}")
                self._say(self._notes[-1])
        return started

    def _note(self, measure: str, failed: dict[str, str]) -> None:
        for target, why in failed.items():
            self._notes.append(f"{target} failed in “{measure}”: {why}")
            self._say(self._notes[-1])

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {what}", file=sys.stderr, flush=True)

    def _description(self, load: float, peers: Sequence[str]) -> dict[str, Any]:
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "kind": "quick" if self._options.quick else "full",
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "measured": _measured(),
            "machine": f"{os.cpu_count()} processors, {_processor()}",
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "load_before": round(load, 2),
            "peers": {name: version(PEERS[name], self._options.peer_folder) for name in peers},
            "notes": self._notes,
        }


def _measured() -> str:
    """Return Branchline's version and, in a clone, the commit; `-dirty` if files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"Branchline {__version__}"
    return f"Branchline {__version__}, commit {described.stdout.strip()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about 4 minutes instead of 20")
    parser.add_argument("--only", default="", metavar="MEASURES", help=f"some of: {','.join(MEASURES)}")
    parser.add_argument(
        "--peers", help=f"some of {','.join(PEERS)}, or none (default: all; in a quick run {','.join(QUICK_PEERS)})"
    )
    parser.add_argument(
        "--peer-folder",
        type=Path,
        default=Path(".venv-peers"),
        metavar="DIR",
        help="where each peer has, or gets, a virtual environment of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="a clone of another commit, whose turns are measured beside"
    )
    parser.add_argument("--output", type=Path, default=page.DATA, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--page", action="store_true", help="only write the page anew from the data that are there")
    options = parser.parse_args(arguments)
    options.peers = options.peers or ",".join(QUICK_PEERS if options.quick else PEERS)
    for given, known in ((options.only, MEASURES), (options.peers.replace("none", ""), PEERS)):
        if unknown := set(filter(None, given.split(","))) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return options


def main() -> None:
    """Run what the command line says."""
    options = parse()
    if not options.page:
        if not hasattr(time, "pthread_getcpuclockid") or not Path("/proc/self/task").exists():
            raise SystemExit("The benchmarks read processor time and memory from Linux's /proc.")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        # The load must not stop to look for garbage while it measures.
        gc.freeze()
        gc.set_threshold(200_000)
        run = Run(options)
        samples, description = uvloop.run(run.measure())
        options.output.mkdir(parents=True, exist_ok=True)
        samples.write(options.output / "measurements.csv")
        (options.output / "run.json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n")
        if run.failed:
            page.publish(options.output)
            raise SystemExit("A wrong answer, or none: see the notes of the run.")
    page.publish(options.output)
