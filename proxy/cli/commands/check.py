"""`branchline check`: would this configuration work, without serving anything or writing anywhere?"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from proxy.auth.authenticators import create_authenticator
from proxy.cli.commands.findings import Finding
from proxy.cli.processors import worker_count
from proxy.config.values import describe_redis, describe_upstream
from proxy.protocol.errors import ApiError
from proxy.upstream.client import Upstream, create_session
from proxy.upstream.errors import certificate_problem
from storage import Reason, Safeguards, Store, Unavailable
from storage.embedded import EmbeddedUnavailable, probe

if TYPE_CHECKING:
    from proxy.config.settings import Config

#: Longest silence of the upstream that is waited for, in seconds.
PATIENCE_SECONDS = 10.0

#: Names of redis-py's exceptions in plain words.
_STORE_PROBLEMS = {
    "AuthenticationError": "refuses the user or the password of redis.url",
    "AuthenticationWrongNumberOfArgsError": "refuses the user or the password of redis.url",
    "TimeoutError": "does not answer in time",
}


class Problem(Exception):
    """Something would not work; `str()` says what, in plain words."""


async def diagnose(config: Config) -> list[Finding]:
    """Look at every part that a server with `config` needs; never raises for one that does not work.

    Several workers are told too, as `auto` does not say how many it means.
    """
    workers = worker_count(config.server.workers)
    patience = min(PATIENCE_SECONDS, config.upstream.read_timeout_seconds)
    async with create_session(msgspec.structs.replace(config.upstream, read_timeout_seconds=patience)) as session:
        return [
            await _check_store(config),
            await _finding("upstream", _check_upstream(config, session)),
            await _finding("auth", _check_auth(config, session)),
            Finding("recording", works=True, text=_describe_recording(config)),
            *([Finding("workers", works=True, text=f"{workers} processes")] if workers > 1 else []),
        ]


def _describe_recording(config: Config) -> str:
    """Say what will be recorded of apps that keep their history themselves."""
    recording = config.recording
    if recording.mode == "off":
        return "off: each stored turn is on its own"
    unstored = ", also with store: false" if recording.store_false else ""
    completions = "all chat completions" if recording.chat == "all" else "chat completions with store: true"
    known = "by what they resend" if recording.mode == "on" else "by the session that they name"
    return f"turns, and {completions}{unstored}; conversations are known again {known}"


async def _finding(subject: str, check: Awaitable[str]) -> Finding:
    try:
        return Finding(subject, works=True, text=await check)
    except Problem as exc:
        return Finding(subject, works=False, text=str(exc))


async def _check_store(config: Config) -> Finding:
    if not config.redis.url:
        return await _finding("store", _check_embedded(config))
    risks: list[str] = []
    finding = await _finding("store", _check_server(config, risks))
    return replace(finding, risks=tuple(risks))


async def _check_embedded(config: Config) -> str:
    try:
        return f"embedded {await probe(Path(config.data.dir))}"
    except EmbeddedUnavailable as exc:
        raise Problem(str(exc)) from exc


async def _check_server(config: Config, risks: list[str]) -> str:
    """Return what is said of a server that works; its risks are added to `risks`."""
    place = describe_redis(config.redis.url)
    store = Store.connect(
        config.redis.url,
        prefix=config.redis.prefix,
        timeout_seconds=config.redis.timeout_seconds,
        max_connections=1,
        retention_seconds=1,
        safeguards=Safeguards(None, config.redis.min_replicas, config.redis.min_replicas_on_disk),
    )
    try:
        await store.condition.look()
        if rights := await store.risks.missing_rights():
            raise Problem(f"{place} does not let its user run {', '.join(rights)}")
        risks += await store.risks.find()
    except Unavailable as exc:
        raise Problem(f"{place} {store_problem(exc)}") from exc
    finally:
        await store.close()
    return f"{place} answers"


async def _check_upstream(config: Config, session: aiohttp.ClientSession) -> str:
    place = describe_upstream(config.upstream.url)
    if config.upstream.url == "echo":
        return place
    key = config.upstream.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    upstream = Upstream(config.upstream, session, config.upstream.url)
    try:
        async with upstream.forward("GET", "/models", "", headers, None) as response:
            return f"{place} {_judge(response.status, config)}"
    except ApiError as exc:
        raise Problem(f"{place}: {exc.message}{'' if certificate_problem(exc) else _system_reason(exc)}") from exc
    except Problem as exc:
        raise Problem(f"{place} {exc}") from exc


def _judge(status: int, config: Config) -> str:
    """Say what the status of `GET /models` means; Problem if turns would fail too."""
    if status < 300:
        return "answers"
    if status < 400:
        raise Problem(f"redirects ({status}); set upstream.url to where it leads")
    if status in (401, 403) and config.upstream.api_key:
        raise Problem(f"refuses upstream.api_key ({status})")
    if status == 401 and config.auth.mode == "passthrough":
        return "is reachable, asks for a key"
    if status in (401, 403):
        raise Problem(f"asks for a key ({status}), and upstream.api_key is not set")
    if status == 404:
        raise Problem("has no /models (404); upstream.url usually ends in /v1")
    raise Problem(f"answers {status}")


def store_problem(exc: Unavailable) -> str:
    """Return in plain words what a store that is not available does."""
    # redis-py wraps one exception in another, differently for each kind of connection
    if exc.reason not in (Reason.AWAY, Reason.NO_PERMISSION):
        return f"{exc.reason.value} ({exc.subject})"
    named = (_STORE_PROBLEMS.get(type(cause).__name__) for cause in _causes(exc))
    return next(filter(None, named), f"{exc.reason.value} ({exc.subject}).{_system_reason(exc)}")


def _system_reason(exc: BaseException) -> str:
    """Return the system's own word for why a connection failed, as in ` Connection refused.`; else nothing."""
    if problem := certificate_problem(exc):
        return f" Its certificate is not trusted: {problem}."
    for cause in _causes(exc):
        if isinstance(cause, OSError) and cause.errno:
            # asyncio's texts quote the call; the negative numbers are those of name resolution
            return f" {os.strerror(cause.errno) if cause.errno > 0 else cause.strerror}."
    return ""


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


async def _check_auth(config: Config, session: aiohttp.ClientSession) -> str:
    try:
        create_authenticator(config, session)
    except ValueError as exc:
        raise Problem(str(exc)) from exc
    return config.auth.mode
