"""Peers: other gateways that remember conversations, or pass them on, each installed and started as it does best.

Each has a virtual environment of its own under one folder, made with pip when it is first needed. What cannot be
installed or does not start is left out of a measurement, with the reason.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.performance.target import Memory, Target, family
from benchmarks.processes import command, free_port, listening, valkey

#: How long pip may take for one of them.
INSTALL_SECONDS = 600


class Missing(Exception):
    """A peer can't be had here; `str()` says why."""


@dataclass(frozen=True)
class Peer:
    """A gateway of the package index. set_up: how it is run, for the reader of the tables."""

    name: str
    requirement: str
    program: str
    set_up: str
    start: Callable[[Path, Path, str], AbstractAsyncContextManager[Target]]


def install(peer: Peer, folder: Path) -> Path:
    """Return the folder of a peer's programs; installs it if it is not there. Raises Missing.

    A virtual environment that somebody else made under the peer's name is used as it is.
    """
    home = (folder / peer.name).absolute()
    mark = home / "installed-by-benchmarks"
    if (home / "bin" / peer.program).exists() and (not mark.exists() or mark.read_text() == peer.requirement):
        return home / "bin"
    for arguments in (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", peer.requirement],
    ):
        try:
            subprocess.run(arguments, check=True, capture_output=True, timeout=INSTALL_SECONDS)
        except subprocess.CalledProcessError as exc:
            said = exc.stderr.decode(errors="replace").strip().splitlines() or [f"status {exc.returncode}"]
            raise Missing(f"{peer.requirement} can't be installed: {said[-1]}") from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise Missing(f"{peer.requirement} can't be installed: {exc}") from exc
    mark.write_text(peer.requirement)
    return home / "bin"


def version(peer: Peer, folder: Path) -> str:
    """Return the version of a peer that is installed."""
    name = peer.name.replace("-", "_")
    found = [path.name.split("-")[1] for path in (folder / peer.name).glob(f"lib/*/site-packages/{name}-*.dist-info")]
    return found[0].removesuffix(".dist") if found else "of unknown version"


@asynccontextmanager
async def _smg(programs: Path, folder: Path, model: str) -> AsyncIterator[Target]:
    port = free_port()
    with ExitStack() as stack:
        store, store_pid = stack.enter_context(valkey())
        arguments = [
            *("launch", "--host", "127.0.0.1", "--port", str(port), "--worker-urls", model, "--backend", "openai"),
            *("--history-backend", "redis", "--redis-url", store),
            *("--log-level", "error", "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        ]
        started = stack.enter_context(command(str(programs / "smg"), *arguments, log=folder / "smg.log"))
        url = f"http://127.0.0.1:{port}"
        await listening(url, started)
        yield Target("smg", url, family(started.pid)[0], (store_pid,), frozenset(Memory))


@asynccontextmanager
async def _agentic_api(programs: Path, folder: Path, model: str) -> AsyncIterator[Target]:
    port = free_port()
    # The server itself: `agentic-api serve`, which starts it, is a Python process beside it.
    arguments = [
        *("--llm-api-base", model, "--gateway-host", "127.0.0.1", "--gateway-port", str(port)),
        *("--openai-api-key", "bench", "--skip-llm-ready-check", "--max-request-body-size-bytes", str(1 << 28)),
        *("--db-url", f"sqlite://{folder}/agentic.db?mode=rwc"),
    ]
    quiet = {"HOME": str(folder), "RUST_LOG": "error"}
    log = folder / "agentic-api.log"
    with command(str(programs / "agentic-server"), *arguments, variables=quiet, log=log) as started:
        url = f"http://127.0.0.1:{port}"
        await listening(url, started)
        yield Target("agentic-api", url, family(started.pid)[0], (), frozenset(Memory))


_LITELLM_CONFIG = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{model}/v1", api_key: bench}}
"""


@asynccontextmanager
async def _litellm(programs: Path, folder: Path, model: str) -> AsyncIterator[Target]:
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM_CONFIG.format(model=model))
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    alone = {
        "HOME": str(folder),
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with command(str(programs / "litellm"), *arguments, variables=alone, log=folder / "litellm.log") as started:
        url = f"http://127.0.0.1:{port}"
        await listening(url, started)
        yield Target("litellm", url, family(started.pid)[0], share=0.1)


#: Pinned: what a peer needs to be started changes from version to version.
PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "smg",
            "smg==1.13.0",
            "smg",
            "Rust; conversations and chains in a Valkey of its own that keeps nothing on disk",
            _smg,
        ),
        Peer(
            "agentic-api",
            "agentic-api==0.9.0",
            "agentic-server",
            "Rust; conversations and chains in SQLite, in its own process",
            _agentic_api,
        ),
        Peer(
            "litellm",
            "litellm[proxy]==1.106.12",
            "litellm",
            "Python, one worker; remembers nothing without PostgreSQL, so the client sends the history",
            _litellm,
        ),
    )
}
