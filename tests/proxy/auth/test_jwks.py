from __future__ import annotations

import asyncio
import re

import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from proxy.auth.jwks import (
    MAX_KEY_SET_BYTES,
    FixedKeys,
    KeySet,
    KeySetError,
    RemoteKeys,
    VerificationKey,
    create_key_source,
    fits,
    parse_key_set,
)
from proxy.config.settings import JwtConfig, Secret
from proxy.protocol.errors import ServiceUnavailable
from tests.proxy.auth.keys import KeyServer, as_jwk, private_key, private_pem, public_jwk, public_pem

ALL_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def kids(keys):
    return [key.kid for key in keys.keys]


@pytest.fixture
async def server(aiohttp_server):
    server = KeyServer(public_jwk("Ed25519", "one"))
    running = await aiohttp_server(server.app())
    server.url = str(running.make_url("/jwks"))
    yield server
    server.gate.set()


@pytest.fixture
def keys(server, session, clock):
    return RemoteKeys(session, server.url, algorithms=("EdDSA",), ttl_seconds=300, clock=clock)


# Key sets


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [
        ("RSA", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("RSA-1024", set()),
        ("P-256", {"ES256"}),
        ("P-384", {"ES384"}),
        ("P-521", {"ES512"}),
        ("secp256k1", set()),
        ("Ed25519", {"EdDSA"}),
        ("Ed448", {"EdDSA"}),
    ],
)
def test_a_key_fits_the_algorithms_of_its_type_only(kind, algorithms):
    key = private_key(kind).public_key()
    assert {name for name in (*ALL_ASYMMETRIC, "HS256", "none") if fits(name, key)} == algorithms


def test_a_private_key_and_bytes_fit_no_algorithm():
    assert not any(fits(name, private_key("RSA")) or fits(name, b"secret") for name in ALL_ASYMMETRIC)


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448"])
def test_a_key_set_gives_each_key_with_its_id(kind):
    body = orjson.dumps({"keys": [public_jwk(kind, "one")]})
    assert kids(parse_key_set(body, ALL_ASYMMETRIC)) == ["one"]


def test_a_stated_algorithm_is_the_only_one_a_key_verifies():
    body = orjson.dumps({"keys": [public_jwk("RSA", "one", alg="RS512")]})
    assert parse_key_set(body, ALL_ASYMMETRIC).keys[0].algorithms == {"RS512"}


def test_a_key_verifies_configured_algorithms_only():
    body = orjson.dumps({"keys": [public_jwk("RSA", "one")]})
    assert parse_key_set(body, ("RS256", "ES256")).keys[0].algorithms == {"RS256"}


def unusable_keys():
    good = public_jwk("RSA", "bad")
    return {
        "for encryption": {**good, "use": "enc"},
        "for signing only": {**good, "key_ops": ["sign"]},
        "operations that are no list": {**good, "key_ops": "verify"},
        "symmetric": {"kty": "oct", "k": "c2VjcmV0" * 10, "kid": "bad"},
        "symmetric without a value": {"kty": "oct", "kid": "bad"},
        "symmetric algorithm on a public key": {**good, "alg": "HS256"},
        "algorithm none": {**good, "alg": "none"},
        "algorithm that is no string": {**good, "alg": ["RS256"]},
        "algorithm that is not configured": {**good, "alg": "PS256"},
        "curve that is not configured": public_jwk("P-384", "bad"),
        "type that is not known": {**good, "kty": "XYZ"},
        "no type": {"kid": "bad"},
        "id that is no string": {**good, "kid": 1},
        "weak": public_jwk("RSA-1024", "bad"),
        "without a modulus": {"kty": "RSA", "e": "AQAB", "kid": "bad"},
        "with a modulus that is no string": {**good, "n": 5},
        "off the curve": {**public_jwk("P-256", "bad"), "x": "A" * 43},
        "no object": "bad",
    }


@pytest.mark.parametrize("bad", unusable_keys().values(), ids=unusable_keys())
def test_a_key_that_cannot_verify_is_skipped_and_the_others_stay(bad):
    body = orjson.dumps({"keys": [bad, public_jwk("RSA", "good")]})
    assert kids(parse_key_set(body, ("RS256", "ES256"))) == ["good"]


@pytest.mark.parametrize("kind", ["RSA", "P-256", "Ed25519"])
def test_a_private_key_in_a_key_set_is_used_as_its_public_key(kind):
    key = private_key(kind)
    parsed = parse_key_set(orjson.dumps({"keys": [as_jwk(key)]}), ALL_ASYMMETRIC)
    assert parsed.keys[0].material == key.public_key()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": 5}',
        orjson.dumps({"keys": [public_jwk("P-256", "one")]}),
    ],
)
def test_a_body_without_a_usable_key_is_an_error(body):
    with pytest.raises(KeySetError):
        parse_key_set(body, ("RS256",))


def test_a_key_id_selects_the_keys_that_have_it():
    keys = parse_key_set(orjson.dumps({"keys": [public_jwk("RSA", "a"), public_jwk("RSA", "b")]}), ("RS256",))
    assert [key.kid for key in keys.matching("b")] == ["b"]
    assert keys.matching("c") == ()


def test_without_a_key_id_only_a_set_of_one_key_matches():
    one = parse_key_set(orjson.dumps({"keys": [public_jwk("RSA", "a")]}), ("RS256",))
    two = parse_key_set(orjson.dumps({"keys": [public_jwk("RSA", "a"), public_jwk("RSA", "b")]}), ("RS256",))
    assert kids(one) == [key.kid for key in one.matching(None)] == ["a"]
    assert two.matching(None) == ()


def test_a_key_hides_its_material():
    keys = KeySet((VerificationKey(None, frozenset({"HS256"}), b"correct horse battery staple"),))
    assert "correct horse" not in repr(keys)


# Fetching


async def test_a_key_set_is_fetched_when_first_needed_and_again_when_it_is_old(keys, server, clock):
    assert server.requests == 0
    await keys.current()
    clock.advance(299)
    await keys.current()
    assert server.requests == 1
    clock.advance(1)
    await keys.current()
    assert server.requests == 2


async def test_a_body_that_may_stay_compressed_is_not_asked_for(keys, server):
    await keys.current()
    assert server.headers["Accept-Encoding"] == "identity"


async def test_requests_at_the_same_time_share_one_fetch(keys, server):
    server.gate.clear()
    waiting = [asyncio.create_task(keys.current()) for _ in range(20)]
    await server.arrived.wait()
    server.gate.set()
    found = await asyncio.gather(*waiting)
    assert server.requests == 1
    assert all(keys is found[0] for keys in found)


async def test_a_caller_that_leaves_does_not_take_the_fetch_away_from_others(keys, server):
    server.gate.clear()
    leaving, staying = (asyncio.create_task(keys.current()) for _ in range(2))
    await server.arrived.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    server.gate.set()
    assert kids(await staying) == ["one"]
    assert server.requests == 1


async def test_an_unchanged_key_set_stays_the_same_object(keys, server, clock):
    before = await keys.current()
    clock.advance(300)
    assert await keys.current() is before
    assert server.requests == 2


async def test_a_rotated_key_set_replaces_the_old_one(keys, server, clock):
    await keys.current()
    server.serve(public_jwk("Ed25519", "two"))
    clock.advance(300)
    assert kids(await keys.current()) == ["two"]


async def test_a_failing_refresh_keeps_the_old_keys(keys, server, clock):
    before = await keys.current()
    server.fail()
    clock.advance(300)
    assert await keys.current() is before
    assert server.requests == 2


async def test_a_failing_endpoint_is_asked_again_only_after_a_pause(keys, server, clock):
    await keys.current()
    server.fail()
    clock.advance(300)
    for _ in range(5):
        await keys.current()
    clock.advance(9)
    tasks = asyncio.all_tasks()
    await keys.current()
    assert asyncio.all_tasks() == tasks
    assert server.requests == 2


async def test_requests_do_not_wait_for_an_endpoint_that_failed_the_last_time(keys, server, clock):
    before = await keys.current()
    server.fail()
    clock.advance(300)
    await keys.current()
    server.gate.clear()
    server.arrived.clear()
    clock.advance(10)
    async with asyncio.timeout(20):
        assert await keys.current() is before
    await server.arrived.wait()
    assert server.requests == 3


async def test_an_endpoint_that_recovers_is_believed_again(keys, server, clock):
    await keys.current()
    server.fail()
    clock.advance(300)
    await keys.current()
    server.serve(public_jwk("Ed25519", "two"))
    clock.advance(10)
    await keys.current()
    assert kids(await keys.renewed()) == ["two"]
    server.serve(public_jwk("Ed25519", "three"))
    clock.advance(300)
    assert kids(await keys.current()) == ["three"]


def unusable_replies():
    key = public_jwk("Ed25519", "one")
    padding = b" " * MAX_KEY_SET_BYTES
    return {
        "status 500": lambda: web.Response(status=500),
        "status 500 with keys": lambda: web.json_response({"keys": [key]}, status=500),
        "status 404": lambda: web.Response(status=404),
        "redirect": lambda: web.Response(status=302, headers={"Location": "/jwks"}),
        "not JSON": lambda: web.Response(text="<html>"),
        "no keys": lambda: web.json_response({"keys": []}),
        "too large": lambda: web.Response(body=orjson.dumps({"keys": [key]}) + padding),
    }


@pytest.mark.parametrize("reply", unusable_replies().values(), ids=unusable_replies())
async def test_keys_are_unavailable_while_the_first_fetch_fails(keys, server, reply):
    server.reply = reply
    with pytest.raises(ServiceUnavailable) as caught:
        await keys.current()
    assert caught.value.headers["Retry-After"] == "1"
    assert server.requests == 1


async def test_a_key_set_of_the_largest_size_is_read(keys, server):
    body = orjson.dumps({"keys": [public_jwk("Ed25519", "one")]}).ljust(MAX_KEY_SET_BYTES)
    server.reply = lambda: web.Response(body=body)
    assert kids(await keys.current()) == ["one"]


async def test_keys_are_unavailable_while_nothing_listens(session, unused_tcp_port, clock):
    url = f"http://127.0.0.1:{unused_tcp_port}/jwks"
    keys = RemoteKeys(session, url, algorithms=("EdDSA",), ttl_seconds=300, clock=clock)
    with pytest.raises(ServiceUnavailable):
        await keys.current()


async def test_an_endpoint_that_does_not_answer_is_given_up(session, server):
    server.gate.clear()
    keys = RemoteKeys(session, server.url, algorithms=("EdDSA",), ttl_seconds=300, timeout_seconds=0.05)
    with pytest.raises(ServiceUnavailable):
        await keys.current()


async def test_a_first_fetch_that_failed_is_repeated_after_a_short_pause(keys, server, clock):
    server.fail()
    for _ in range(5):
        with pytest.raises(ServiceUnavailable):
            await keys.current()
    assert server.requests == 1
    server.serve(public_jwk("Ed25519", "one"))
    clock.advance(1)
    assert kids(await keys.current()) == ["one"]


async def test_the_address_of_the_key_set_stays_out_of_the_log(session, unused_tcp_port, caplog):
    url = f"http://user:password@127.0.0.1:{unused_tcp_port}/jwks?token=hidden"
    keys = RemoteKeys(session, url, algorithms=("EdDSA",), ttl_seconds=300)
    with pytest.raises(ServiceUnavailable):
        await keys.current()
    ours = [record.getMessage() for record in caplog.records if record.name == "proxy.auth.jwks"]
    assert ours == ["auth.jwt.jwks_url: key set not refreshed: ClientConnectorError"]


async def test_an_unknown_key_id_renews_the_set_before_it_is_old(keys, server):
    await keys.current()
    server.serve(public_jwk("Ed25519", "one"), public_jwk("Ed25519", "two"))
    assert kids(await keys.renewed()) == ["one", "two"]
    assert await keys.current() is await keys.renewed()


async def test_unknown_key_ids_renew_the_set_at_most_once_in_ten_seconds(keys, server, clock):
    await keys.current()
    for _ in range(50):
        await keys.renewed()
    clock.advance(9.9)
    await keys.renewed()
    assert server.requests == 2
    clock.advance(0.1)
    await keys.renewed()
    assert server.requests == 3


async def test_unknown_key_ids_at_the_same_time_share_one_renewal(keys, server):
    await keys.current()
    server.serve(public_jwk("Ed25519", "two"))
    server.gate.clear()
    server.arrived.clear()
    waiting = [asyncio.create_task(keys.renewed()) for _ in range(20)]
    await server.arrived.wait()
    server.gate.set()
    assert [kids(found) for found in await asyncio.gather(*waiting)] == [["two"]] * 20
    assert server.requests == 2


async def test_a_renewal_that_fails_keeps_the_old_keys(keys, server):
    before = await keys.current()
    server.fail()
    assert await keys.renewed() is before


# Configuration

SECRET = Secret("0123456789abcdef0123456789abcdef")
RSA_PEM = public_pem(private_key("RSA")).decode()
RSA_JWK = orjson.dumps(public_jwk("RSA", "one")).decode()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"secret": SECRET}, "auth.jwt.algorithms: at least one is needed"),
        ({"algorithms": ("none",), "secret": SECRET}, "auth.jwt.algorithms: 'none' is not supported"),
        ({"algorithms": ("HS256", "None"), "secret": SECRET}, "auth.jwt.algorithms: 'None' is not supported"),
        ({"algorithms": ("ES256K",), "jwks_url": "https://a/"}, "auth.jwt.algorithms: 'ES256K' is not"),
        ({"algorithms": ("HS256", "RS256"), "secret": SECRET}, "auth.jwt.algorithms: HS* can't be mixed"),
        ({"algorithms": ("EdDSA", "HS512"), "jwks_url": "https://a/"}, "auth.jwt.algorithms: HS* can't"),
        (
            {"algorithms": ("HS256",), "jwks_url": "https://a/"},
            "auth.jwt.algorithms: HS256 needs auth.jwt.secret",
        ),
        (
            {"algorithms": ("HS256",), "key_file": "key.pem"},
            "auth.jwt.algorithms: HS256 needs auth.jwt.secret",
        ),
        (
            {"algorithms": ("RS256",), "secret": SECRET},
            "auth.jwt.algorithms: RS256 needs auth.jwt.key_file or",
        ),
        (
            {"algorithms": ("HS256",)},
            "auth.jwt: exactly one of secret, key_file and jwks_url must be set, not none",
        ),
        (
            {"algorithms": ("RS256",), "key_file": "key.pem", "jwks_url": "https://a/"},
            "auth.jwt: exactly one of secret, key_file and jwks_url must be set, not key_file and jwks_url",
        ),
        (
            {"algorithms": ("HS256",), "secret": Secret(SECRET[:31])},
            "auth.jwt.secret: HS256 needs at least 32",
        ),
        (
            {"algorithms": ("HS256", "HS512"), "secret": SECRET},
            "auth.jwt.secret: HS256/HS512 needs at least 64",
        ),
        ({"algorithms": ("HS256",), "secret": Secret(RSA_PEM)}, "auth.jwt.secret: this is a public key or"),
        ({"algorithms": ("HS256",), "secret": Secret(RSA_JWK)}, "auth.jwt.secret: this is a public key or"),
        (
            {"algorithms": ("RS256",), "jwks_url": "ftp://a/key"},
            "auth.jwt.jwks_url: an http or https URL is needed",
        ),
        (
            {"algorithms": ("RS256",), "jwks_url": "https://[x"},
            "auth.jwt.jwks_url: an http or https URL is needed",
        ),
        (
            {"algorithms": ("RS256",), "jwks_url": "https:///k"},
            "auth.jwt.jwks_url: an http or https URL is needed",
        ),
        (
            {"algorithms": ("RS256",), "key_file": "/nowhere/key.pem"},
            "auth.jwt.key_file: No such file or directory",
        ),
    ],
)
async def test_settings_that_cannot_work_are_refused_by_name(session, settings, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        create_key_source(JwtConfig(**settings), session)
    assert SECRET[:31] not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "auth.jwt.key_file: no public key in PEM form"),
        (private_pem(private_key("RSA")), "auth.jwt.key_file: no public key in PEM form"),
        (public_pem(private_key("P-256")), "auth.jwt.algorithms: RS256 does not fit"),
        (public_pem(private_key("RSA-1024")), "auth.jwt.algorithms: RS256 does not fit"),
    ],
)
async def test_a_key_file_must_hold_a_public_key_that_fits(session, tmp_path, content, message):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        create_key_source(JwtConfig(algorithms=("RS256",), key_file=str(path)), session)


async def test_a_key_file_gives_one_key_that_matches_any_key_id(session, tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(private_key("RSA")))
    source = create_key_source(JwtConfig(algorithms=("RS256", "PS256"), key_file=str(path)), session)
    assert isinstance(source, FixedKeys)
    keys = await source.current()
    assert keys is await source.renewed()
    (key,) = keys.matching("any")
    assert isinstance(key.material, RSAPublicKey)
    assert key.algorithms == {"RS256", "PS256"}
