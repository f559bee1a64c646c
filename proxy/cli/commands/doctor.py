"""`branchline doctor`: what `check` finds, what else can go wrong on this machine, and what to do about each."""

from __future__ import annotations

import importlib.util
import platform
import resource
import shutil
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.cli.commands.check import diagnose
from proxy.cli.commands.findings import Finding
from proxy.config.validation import warnings
from storage import Store, StoreError
from storage.embedded import running_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config.settings import Config

#: Seconds that the clocks of this machine and of the store may differ.
MAX_SKEW_SECONDS = 2.0
#: Share of the store's memory, or of the disk, that is left when that is worth a warning.
LOW_SHARE = 0.15
#: Share of `server.max_connections` that a process needs files for.
ENOUGH_SHARE = 0.9
#: Files that a process has open besides its connections.
RESERVED_FILES = 100

#: What to do about a part that does not work.
_REMEDIES = {
    "store": "start it, or set redis.url (BRANCHLINE_REDIS_URL) to where it is; docs/operations.md: stores",
    "upstream": "curl its /v1/models; set upstream.url (with its /v1) and upstream.api_key",
    "auth": "compare with docs/operations.md: who may call; `branchline config --changed` prints what is set",
}
#: What to do about a setting of the store, by the name that its warning begins with.
_SETTINGS = {
    "maxmemory-policy": "CONFIG SET maxmemory-policy noeviction, and in its configuration file",
    "appendonly": "CONFIG SET appendonly yes, and in its configuration file",
    "appendfsync": "CONFIG SET appendfsync always, or accept the loss; docs/reliability.md: settings of the store",
    "redis.min_replicas": "set redis.min_replicas = 1; docs/reliability.md: failover",
}


async def examine(config: Config) -> list[Finding]:
    """Look at all that a server with `config` needs and stands on; never raises for what does not work."""
    findings = [_advise(finding) for finding in await diagnose(config)]
    async with _running_store(config) as store:
        if store is not None:
            findings += [await _check_clock(store), _check_memory(store)]
    if not config.redis.url:
        findings.append(_check_disk(config))
    return [*findings, _check_files(config), _check_settings(config), _check_software()]


def _advise(finding: Finding) -> Finding:
    """Return a finding with what to do about it."""
    advice = [_SETTINGS[name] for risk in finding.risks for name in _SETTINGS if risk.startswith(name)]
    # of several upstreams each is looked at: `upstream qwen`
    part, _, name = finding.subject.partition(" ")
    if not finding.works and part in _REMEDIES:
        remedy = _REMEDIES[part]
        advice.insert(0, remedy.replace("upstream.", f"upstreams.{name}.") if name else remedy)
    return replace(finding, advice=tuple(advice))


@asynccontextmanager
async def _running_store(config: Config) -> AsyncIterator[Store | None]:
    """Give the store if its server runs; the embedded one is not started for it."""
    with ExitStack() as held:
        url = config.redis.url or held.enter_context(running_in(Path(config.data.dir)))
        if not url:
            yield None
            return
        store = Store.connect(
            url,
            prefix=config.redis.prefix,
            timeout_seconds=config.redis.timeout_seconds,
            max_connections=1,
            retention_seconds=1,
        )
        try:
            yield store if await _answers(store) else None
        finally:
            await store.close()


async def _answers(store: Store) -> bool:
    try:
        await store.condition.look()
    except StoreError:
        # `check` has said so
        return False
    return True


async def _check_clock(store: Store) -> Finding:
    before = time.time()
    try:
        told = await store.condition.clock()
    except StoreError as exc:
        return Finding("clock", works=True, text=f"the store does not tell its time ({exc.subject})")
    ahead = told - (before + time.time()) / 2
    if abs(ahead) <= MAX_SKEW_SECONDS:
        return Finding("clock", works=True, text=f"within {MAX_SKEW_SECONDS:.0f} s of the store's")
    side = "behind" if ahead > 0 else "ahead of"
    risk = f"this machine is {abs(ahead):.0f} s {side} the store: tokens expire at the wrong time, ages are shown wrong"
    advice = ("let NTP set the clocks of both (timedatectl, chronyc tracking)",)
    return Finding("clock", works=True, text="differs from the store's", risks=(risk,), advice=advice)


def _check_memory(store: Store) -> Finding:
    used, limit = store.condition.memory
    if not limit:
        text = f"the store uses {_size(used)}, without a limit of its own (maxmemory 0)"
        return Finding("memory", works=True, text=text)
    text = f"the store uses {_size(used)} of {_size(limit)}"
    if limit - used > LOW_SHARE * limit:
        return Finding("memory", works=True, text=text)
    risk = "nothing is thrown away: once it is full nothing new is stored (insufficient_storage)"
    advice = ("raise maxmemory (data.max_memory_bytes), or set conversations.retention_days, or `branchline purge`",)
    return Finding("memory", works=True, text=text, risks=(risk,), advice=advice)


def _check_disk(config: Config) -> Finding:
    folder = Path(config.data.dir).expanduser().absolute()
    at = next(path for path in (folder, *folder.parents) if path.exists())
    disk = shutil.disk_usage(at)
    text = f"{_size(disk.free)} of {_size(disk.total)} free for {folder}"
    if disk.free > max(LOW_SHARE * disk.total, 2 * config.data.min_free_bytes):
        return Finding("disk", works=True, text=text)
    risk = f"with less than data.min_free_bytes ({_size(config.data.min_free_bytes)}) nothing new is stored"
    advice = ("make room, or move data.dir to a larger disk; the append-only file is rewritten by itself as it grows",)
    return Finding("disk", works=True, text=text, risks=(risk,), advice=advice)


def _check_files(config: Config) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * config.server.max_connections + RESERVED_FILES
    possible = max(1, (hard - RESERVED_FILES) // 2)
    if hard == resource.RLIM_INFINITY or possible >= ENOUGH_SHARE * config.server.max_connections:
        return Finding("files", works=True, text=f"enough for {config.server.max_connections:,} connections")
    risk = f"a process may open {hard:,}: {possible:,} connections, not server.max_connections"
    advice = (f"LimitNOFILE={needed} (systemd), ulimit -Hn {needed}, or a lower server.max_connections",)
    return Finding("files", works=True, text=f"{hard:,} at most", risks=(risk,), advice=advice)


def _check_settings(config: Config) -> Finding:
    risks = tuple(warnings(config))
    wants_key = any("sealing.key" in risk for risk in risks)
    advice = ("sealing.key: any text of at least 32 characters, the same on every replica",) if wants_key else ()
    return Finding("settings", works=True, text="fit together", risks=risks, advice=advice)


def _check_software() -> Finding:
    parts = [f"Branchline {__version__}", f"{platform.python_implementation()} {platform.python_version()}"]
    missing = tuple(
        f"{name} is not installed: slower" for name in ("uvloop", "hiredis") if importlib.util.find_spec(name) is None
    )
    return Finding("software", works=True, text=", ".join(parts), risks=missing)


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
