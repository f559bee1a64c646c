"""Every parser that takes a stranger's bytes takes any: it answers, or refuses in the one way that it says."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict

from proxy.auth.authenticators import create_authenticator
from proxy.auth.jwks import KeySetError, parse_key_set
from proxy.backup.verifier import Backup, InvalidBackup
from proxy.config.loading import ConfigError, load_config
from proxy.config.schema import keys
from proxy.config.settings import AuthConfig, Config, JwtConfig, Secret
from proxy.http.json_body import parse_object
from proxy.protocol import ids, params
from proxy.protocol.errors import ApiError, Unauthorized
from proxy.protocol.request import read_request
from proxy.protocol.sse import EventTooLarge, SseDecoder
from proxy.websocket import messages
from storage import partition_of
from tests.depth import examples
from tests.json_values import altered, objects, values

SECRET = "correct horse battery staple, with enough bytes for the longest hash there is"
DEPTH = 20
TURN_FIELDS = [
    *("model", "input", "store", "stream", "background", "conversation", "previous_response_id", "metadata", "include"),
    *("tools", "type", "id", "role", "content", "call_id", "output", "fork_from", "branch", "at", "truncation"),
    *("stream_id", "generate", "stream_options", "context_management", "text", "reasoning", "encrypted_content"),
]
CLAIMS = ["sub", "iss", "aud", "exp", "nbf", "iat", "jti"]
JWK_FIELDS = ["keys", "kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y", "k"]


#: A few dozen of each: what one run does not find the next one may.
fuzz = settings(max_examples=examples(50))


@contextmanager
def refused_at_most(*statuses: int) -> Iterator[None]:
    """Take what is an answer, or a refusal with one of these statuses."""
    refusals = []
    try:
        yield
    except ApiError as refused:
        refusals.append(refused.status)
    assert set(refusals) <= set(statuses)


@fuzz
@given(st.binary(max_size=300))
@example(b"[" * 5000)
@example(b'{"a":' * 5000)
@example(b'\xef\xbb\xbf{"a":"\\ud800"}')
@example(b'{"a":1e999,"b":NaN,"a":-0}')
def test_any_bytes_are_an_object_or_no_body(body: bytes):
    with refused_at_most(400):
        # what is stored must be what any model server takes
        assert isinstance(orjson.loads(orjson.dumps(parse_object(body, DEPTH))), dict)


@fuzz
@given(objects(TURN_FIELDS))
def test_any_object_is_a_turn_or_a_bad_request(body: dict[str, Any]):
    with refused_at_most(400, 404):
        assert isinstance(read_request(parse_object(orjson.dumps(_sendable(body)), DEPTH)).show_encrypted, bool)


@fuzz
@given(objects(TURN_FIELDS))
def test_any_message_of_a_websocket_is_a_turn_or_a_bad_request(message: dict[str, Any]):
    message = _sendable(message)
    for read in (messages.read_lane, messages.read_create):
        with refused_at_most(400, 404):
            read(message)
    assert messages.unknown_type(message).status == 400
    assert orjson.loads(messages.steer_failed(message))["type"] == "response.steer.failed"


@fuzz
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n", b"\r", b"\n\n", b"event: x"]), max_size=20))
def test_any_bytes_are_events_or_too_many(chunks: list[bytes]):
    decoder = SseDecoder(64)
    try:
        events = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.flush()
    except EventTooLarge:
        return
    assert all(isinstance(event.data, bytes) and b"\n\n" not in event.data for event in events)


@fuzz
@given(st.dictionaries(st.sampled_from(CLAIMS), values(CLAIMS) | st.just(time.time() + 600), max_size=7))
@example({"sub": "a", "exp": math.inf})
@example({"sub": "a", "exp": 10**400})
@example({"sub": {"a": 1}, "exp": time.time() + 600})
async def test_any_signed_claims_name_a_caller_or_none(claims: dict[str, Any]):
    config = Config(auth=AuthConfig(mode="jwt", jwt=JwtConfig(algorithms=("HS256",), secret=Secret(SECRET))))
    session: Any = None
    authenticator = create_authenticator(config, session)
    token = jwt.api_jws.encode(_json(claims), SECRET, algorithm="HS256")
    try:
        caller = await authenticator.authenticate(CIMultiDict(Authorization=f"Bearer {token}"))
    except Unauthorized:
        return
    assert caller.owner.startswith("jwt:")
    assert isinstance(claims["sub"], str)


@fuzz
@given(st.binary(max_size=100) | objects(JWK_FIELDS).map(lambda value: orjson.dumps(_sendable(value))))
@example(b"[" * 100_000)
def test_any_bytes_are_a_key_set_or_none(body: bytes):
    try:
        parse_key_set(body, ("RS256", "ES256", "EdDSA", "HS256"))
    except KeySetError:
        return


@fuzz
@given(st.text(max_size=60) | st.from_regex(r"(resp|msg|conv)_[0-9a-f]{46,52}", fullmatch=True))
def test_any_text_leads_to_one_partition_and_is_an_id_or_not(text: str):
    partition = partition_of(text)
    assert len(partition) == 16
    assert int(partition, 16) >= 0
    assert not math.isnan(ids.age_seconds(text))
    for check in (params.check_id, params.check_conversation_id, params.check_branch_name):
        with refused_at_most(400, 404):
            check(text, "id")
            assert text.isascii()


@fuzz
@given(st.lists(st.tuples(st.sampled_from(["limit", "order", "after", "before", "include", "include[]"]), st.text())))
@example([("limit", "٣")])
@example([("limit", "9" * 5000)])
def test_any_query_is_a_page_or_a_bad_request(query: list[tuple[str, str]]):
    with refused_at_most(400):
        assert 1 <= params.read_page(MultiDict(query)).limit <= params.MAX_PAGE


@fuzz
@given(st.binary(max_size=200))
@example(b"[" * 100_000)
def test_any_bytes_are_no_exported_conversation(content: bytes):
    with pytest.raises(InvalidBackup):
        Backup(io.BytesIO(content))


def _exported() -> list[dict[str, Any]]:
    partition, times = "0123456789abcdef", {"created_at": 1, "updated_at": 2}
    response_id = f"resp_{partition}00{'0' * 32}"
    chains = {"snapshot": [[0, 0, 2]], "context": [[0, 0, 1]], "output": [[0, 1, 2]]}
    response = {"status": "completed", "body": {"id": response_id}, **chains, "pending": [], "created_at": 1}
    item = {"type": "message", "role": "user", "content": []}
    return [
        {"kind": "conversation", "version": 1, "id": f"conv_{'0' * 32}{partition}", **times, "active_branch": "MAIN"},
        {"kind": "branch", "name": "MAIN", "line": 0, "chain": [[0, 0, 2]], "pending": [], **times},
        {
            "kind": "append",
            "segment": 0,
            "end": 2,
            "id": response_id,
            "model": "m",
            "pending": [],
            "response": response,
        },
        {"kind": "item", "segment": 0, "offset": 0, "item": {"id": "msg_a", **item}},
        {"kind": "item", "segment": 0, "offset": 1, "item": {"id": "msg_b", **item}},
        {"kind": "end", "branches": 1, "appends": 1, "items": 2},
    ]


def test_the_file_that_is_altered_is_one():
    assert Backup(io.BytesIO(b"\n".join(map(orjson.dumps, _exported())))).lengths == [2]


@fuzz
@given(altered(_exported(), ["kind", "id", "segment", "chain", "item", "type", "call_id", "mark", "note", "parent"]))
def test_an_exported_conversation_that_was_altered_is_read_or_refused(lines: list[Any]):
    file = io.BytesIO(b"\n".join(orjson.dumps(_sendable(line)) for line in lines))
    with suppress(InvalidBackup):
        backup = Backup(file)
        assert len([*backup.appends(), *backup.items()]) >= len(backup.lengths)


@fuzz
@given(st.binary(max_size=100) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"a = [" + b"[" * 5000)
@example(b"\x00")
def test_any_file_is_a_configuration_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    _load_file(tmp_path_factory, content)


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(keys())), values(["a"]), max_size=4))
def test_any_values_of_settings_are_a_configuration_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
):
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items() if _toml(value)]
    _load_file(tmp_path_factory, "\n".join(lines).encode("utf-8", "surrogatepass"))


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(keys())), st.text(max_size=30), max_size=3))
@example({"server.port": "٨٠"})
@example({"redis.url": "redis://["})
@example({"upstream.url": "http://[::1"})
@example({"server.cors_origins": "http://[x"})
def test_any_environment_is_a_configuration_or_an_error(values: dict[str, str]):
    environment = {f"BRANCHLINE_{name.replace('.', '_').upper()}": text for name, text in values.items()}
    with suppress(ConfigError):
        assert isinstance(load_config(None, environment, {}), Config)


def _load_file(folders: pytest.TempPathFactory, content: bytes) -> None:
    path: Path = folders.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content)
    with suppress(ConfigError):
        assert isinstance(load_config(path, {}, {}), Config)


def _toml(value: Any) -> str:
    """Return a value as TOML, where JSON is some; '' where there is none."""
    return "" if value is None or isinstance(value, dict) else _json(value).decode()


def _json(value: Any) -> bytes:
    """Return any value as JSON, as Python's own module writes it: with NaN, and integers of any size."""
    return json.dumps(value).encode()


def _sendable(value: Any) -> Any:
    """Return a value that orjson can write: no lone surrogates, no integers of more than 64 bits."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case bool():
            return value
        case int():
            return max(-(2**63), min(value, 2**64 - 1))
        case list():
            return [_sendable(one) for one in value]
        case dict():
            return {_sendable(name): _sendable(one) for name, one in value.items()}
        case _:
            return value
