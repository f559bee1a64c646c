import asyncio

import pytest
from redis.asyncio import Redis

from proxy.cli.commands import check as diagnosis
from proxy.cli.commands.check import diagnose
from proxy.cli.commands.findings import Finding
from proxy.config.settings import (
    AuthConfig,
    Config,
    DataConfig,
    JwtConfig,
    RecordingConfig,
    RedisConfig,
    Secret,
    UpstreamConfig,
)
from storage.embedded import find_binary
from tests.certificates import make_certificate, server_context
from tests.storage.servers import run_valkey
from tests.upstream import HANG, Reply

#: Port 9 is `discard`; nothing listens on it here.
CLOSED = "127.0.0.1:9"
KNOWN_AGAIN = "conversations are known again by"


async def found(subject, tmp_path, **sections):
    config = Config(**{"upstream": UpstreamConfig(url="echo"), "data": DataConfig(dir=str(tmp_path)), **sections})
    return next(finding for finding in await diagnose(config) if finding.subject == subject)


async def test_the_upstream_is_asked_with_the_configured_key(upstream, tmp_path):
    config = UpstreamConfig(url=upstream.url, api_key=Secret("sk-1"))
    assert await found("upstream", tmp_path, upstream=config) == Finding(
        "upstream", works=True, text=f"{upstream.url} answers"
    )
    (request,) = upstream.requests
    assert (request.method, request.path_qs) == ("GET", "/v1/models")
    assert request.headers["Authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    ("status", "key", "mode", "works", "text"),
    [
        (401, "", "passthrough", True, "is reachable, asks for a key"),
        (401, "", "none", False, "asks for a key (401), and upstream.api_key is not set"),
        (401, "sk-1", "passthrough", False, "refuses upstream.api_key (401)"),
        (403, "sk-1", "none", False, "refuses upstream.api_key (403)"),
        (404, "", "passthrough", False, "has no /models (404); upstream.url usually ends in /v1"),
        (301, "", "passthrough", False, "redirects (301); set upstream.url to where it leads"),
        (503, "", "passthrough", False, "answers 503"),
    ],
)
async def test_what_the_upstream_answers_is_put_into_words(upstream, tmp_path, status, key, mode, works, text):
    upstream.script(Reply.json(status, {}), path="/v1/models")
    sections = {
        "upstream": UpstreamConfig(url=upstream.url, api_key=Secret(key)),
        "auth": AuthConfig(mode=mode),
    }
    assert await found("upstream", tmp_path, **sections) == Finding(
        "upstream", works=works, text=f"{upstream.url} {text}"
    )


async def test_an_upstream_that_is_not_there_is_told(tmp_path):
    finding = await found("upstream", tmp_path, upstream=UpstreamConfig(url=f"http://{CLOSED}/v1"))
    assert not finding.works
    assert finding.text == f"http://{CLOSED}/v1: The upstream can't be reached. Connection refused."


async def test_an_upstream_that_is_silent_is_not_waited_for_long(upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "PATIENCE_SECONDS", 0.1)
    upstream.script(Reply.raw(200, "application/json", chunks=[HANG]), path="/v1/models")
    finding = await found("upstream", tmp_path, upstream=UpstreamConfig(url=upstream.url))
    assert not finding.works
    assert finding.text.endswith("The upstream did not answer in time.")


async def test_the_embedded_store_is_looked_at_and_not_started(tmp_path):
    finding = await found("store", tmp_path)
    assert finding.works
    assert finding.text.startswith("embedded ")
    assert finding.text.endswith(f" in {tmp_path}")
    assert list(tmp_path.iterdir()) == []


async def test_a_data_folder_that_can_not_be_used_is_told(tmp_path):
    (tmp_path / "file").touch()
    finding = await found("store", tmp_path / "file")
    assert finding == Finding("store", works=False, text=f"the data folder {tmp_path}/file can't be written")


async def test_a_redis_that_answers_is_told_without_its_password(valkey_url, tmp_path):
    finding = await found("store", tmp_path, redis=RedisConfig(url=Secret(valkey_url)))
    lost = "appendonly is no: with a restart all that was stored is lost; set it to yes"
    assert finding == Finding("store", works=True, text=f"{valkey_url} answers", risks=(lost,))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--maxmemory", "1"), "is full (OutOfMemoryError)"),
        (("--replicaof", "127.0.0.1 1"), "takes no writes at the moment (ReadOnlyError)"),
        (("--min-replicas-to-write", "1"), "has too few replicas that follow it (NOREPLICAS)"),
    ],
)
async def test_a_redis_that_takes_no_writes_is_told(tmp_path, options, text):
    with run_valkey(*options) as server:
        finding = await found("store", tmp_path, redis=RedisConfig(url=Secret(server.url)))
    assert finding == Finding("store", works=False, text=f"{server.url} {text}")


async def test_a_redis_whose_user_lacks_rights_is_told(tmp_path):
    with run_valkey() as server:
        async with Redis.from_url(server.url) as operator:
            for commands, text in (
                (["+@all", "-xadd"], "does not let its user run XADD"),
                (["-@all", "+ping", "+set"], "does not let Branchline in, or do this (NoPermissionError)."),
            ):
                await operator.acl_setuser("app", enabled=True, nopass=True, keys="*", commands=commands)
                url = server.url.replace("unix://", "unix://app:any@")
                finding = await found("store", tmp_path, redis=RedisConfig(url=Secret(url)))
                assert (finding.works, finding.text) == (False, f"{server.url} {text}")


async def test_a_redis_that_is_not_there_is_told_without_its_password(tmp_path):
    finding = await found("store", tmp_path, redis=RedisConfig(url=Secret(f"redis://:hunter2@{CLOSED}")))
    assert not finding.works
    assert finding.text == f"redis://{CLOSED} can't be reached (ConnectionError). Connection refused."


async def test_a_certificate_that_is_not_trusted_is_called_so(tmp_path):
    context = server_context(make_certificate(tmp_path / "server.pem"))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for url in (f"rediss://127.0.0.1:{port}", f"rediss+cluster://127.0.0.1:{port}"):
            store = await found("store", tmp_path, redis=RedisConfig(url=Secret(url)))
            assert not store.works
            assert store.text.endswith("Its certificate is not trusted: self-signed certificate.")
        upstream = await found("upstream", tmp_path, upstream=UpstreamConfig(url=f"https://127.0.0.1:{port}/v1"))
        assert not upstream.works
        assert upstream.text.endswith("The upstream's certificate is not trusted: self-signed certificate.")


async def test_a_redis_that_refuses_the_password_is_told(tmp_path):
    socket = tmp_path / "s"
    server = await asyncio.create_subprocess_exec(
        *(find_binary(), "--port", "0", "--unixsocket", socket, "--requirepass", "right", "--save", ""),
        *("--logfile", "", "--dir", tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout
    try:
        while b"Ready to accept" not in await server.stdout.readline():
            pass
        for url in (f"unix://{socket}?password=wrong", f"unix://{socket}"):
            finding = await found("store", tmp_path, redis=RedisConfig(url=Secret(url)))
            assert not finding.works
            assert finding.text == f"unix://{socket} refuses the user or the password of redis.url"
    finally:
        server.kill()
        await server.communicate()


async def test_keys_that_do_not_fit_their_algorithms_are_told(tmp_path):
    jwt = JwtConfig(algorithms=("HS256",), secret=Secret("hunter2"))
    finding = await found("auth", tmp_path, auth=AuthConfig(mode="jwt", jwt=jwt))
    assert not finding.works
    assert "auth.jwt.secret" in finding.text
    assert "hunter2" not in finding.text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {},
            f"turns, and chat completions with store: true; {KNOWN_AGAIN} what they resend",
        ),
        (
            {"chat": "all", "store_false": True, "mode": "keys"},
            f"turns, and all chat completions, also with store: false; {KNOWN_AGAIN} the session that they name",
        ),
        ({"mode": "off"}, "off: each stored turn is on its own"),
    ],
)
async def test_it_says_what_will_be_recorded(tmp_path, settings, text):
    finding = await found("recording", tmp_path, recording=RecordingConfig(**settings))
    assert finding == Finding("recording", works=True, text=text)
