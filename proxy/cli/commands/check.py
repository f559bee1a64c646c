"""`branchline check`: would this configuration work, without serving anything or writing anywhere?"""

from __future__ import annotations

import asyncio
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
from proxy.config.settings import upstream_settings
from proxy.config.upstreams import ECHO, UPSTREAMS_TABLE
from proxy.config.values import describe_redis, describe_upstream
from proxy.protocol.errors import ApiError, UpstreamRefusal
from proxy.telemetry.records import MALFORMED
from proxy.upstream.body import ending_of
from proxy.upstream.client import Upstream, create_session
from proxy.upstream.errors import certificate_problem
from proxy.upstream.models import read_models
from storage import Reason, Safeguards, Store, Unavailable
from storage.embedded import EmbeddedUnavailable, probe

if TYPE_CHECKING:
    from proxy.config.settings import Config
    from proxy.config.upstreams import UpstreamConfig

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
    async with create_session(config.upstream) as session:
        return [
            await _check_store(config),
            *await asyncio.gather(*(_check_server(config, name) for name in upstream_settings(config))),
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
    finding = await _finding("store", _check_redis(config, risks))
    return replace(finding, risks=tuple(risks))


async def _check_embedded(config: Config) -> str:
    try:
        return f"embedded {await probe(Path(config.data.dir))}"
    except EmbeddedUnavailable as exc:
        raise Problem(str(exc)) from exc


async def _check_redis(config: Config, risks: list[str]) -> str:
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


async def _check_server(config: Config, name: str) -> Finding:
    """Look at one model server. name: '' for the only one."""
    settings = upstream_settings(config)[name]
    patience = min(PATIENCE_SECONDS, settings.read_timeout_seconds)
    risks: list[str] = []
    async with create_session(msgspec.structs.replace(settings, read_timeout_seconds=patience)) as session:
        server = Upstream(settings, session, settings.url, config.upstreams.get(name), name=name)
        look = _check_upstream(server, settings, config, risks)
        finding = await _finding(f"upstream {name}" if name else "upstream", look)
    return replace(finding, risks=tuple(risks))


async def _check_upstream(server: Upstream, settings: UpstreamConfig, config: Config, risks: list[str]) -> str:
    place = describe_upstream(settings.url)
    if settings.url == ECHO:
        return place
    key = settings.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        models = await read_models(server, headers)
    except UpstreamRefusal as refusal:
        section = f"{UPSTREAMS_TABLE}.{server.name}" if server.is_named else "upstream"
        asks_callers = config.auth.mode == "passthrough" and (not server.is_named or server.takes_callers_key)
        return f"{place} {_judge(refusal.status, place, section, has_key=bool(key), asks_callers=asks_callers)}"
    except ApiError as exc:
        if ending_of(exc) == MALFORMED:
            return f"{place} answers, but not with a list of models"
        raise Problem(f"{place}: {exc.message}{'' if certificate_problem(exc) else _system_reason(exc)}") from exc
    listed = {model["id"] for model in models}
    for name in server.models if server.is_named else ():
        told = server.alias(name) or name
        if not name.endswith("*") and told not in listed:
            risks.append(f"it does not list '{told}', which {UPSTREAMS_TABLE}.{server.name}.models counts on")
    return f"{place} answers"


def _judge(status: int, place: str, section: str, *, has_key: bool, asks_callers: bool) -> str:
    """Say what the status of `GET /models` means; Problem if turns would fail too.

    section: of the settings. asks_callers: callers' own keys go there.
    """
    if status == 401 and asks_callers and not has_key:
        return "is reachable, asks for a key"
    if status in (401, 403):
        problem = f"refuses {section}.api_key ({status})"
        if not has_key:
            problem = f"asks for a key ({status}), and {section}.api_key is not set"
    elif status < 400:
        problem = f"redirects ({status}); set {section}.url to where it leads"
    elif status == 404:
        problem = f"has no /models (404); {section}.url usually ends in /v1"
    else:
        problem = f"answers {status}"
    raise Problem(f"{place} {problem}")


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
