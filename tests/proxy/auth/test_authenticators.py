from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import time
import traceback
from typing import Any

import jwt
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.auth.authenticators import TokenCache, create_authenticator
from proxy.auth.caller import Caller
from proxy.auth.jwks import KeySet
from proxy.config.settings import AuthConfig, Config, JwtConfig, Secret, ServerConfig, UpstreamConfig
from proxy.config.values import is_loopback
from proxy.protocol.errors import BadRequest, ServiceUnavailable, Unauthorized, error_body
from tests.proxy.auth.keys import Clock, KeyServer, as_jwk, private_key, public_jwk, public_pem

SECRET = Secret("correct horse battery staple, with enough bytes for the longest hash there is")
API_KEY = Secret("sk-upstream")
UPSTREAM = {"Authorization": "Bearer sk-upstream"}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def headers(*values, name="Authorization"):
    """Return the headers of a request as aiohttp gives them, with these values of `Authorization`."""
    pairs = [("Host", "localhost"), *((name, value) for value in values)]
    return CIMultiDictProxy(CIMultiDict(pairs))


def bearer(token):
    return headers(f"Bearer {token}")


def configured(auth, *, host="127.0.0.1", api_key=API_KEY):
    return Config(server=ServerConfig(host=host), upstream=UpstreamConfig(api_key=api_key), auth=auth)


def claims(**changes):
    """Return valid claims, with changes; a claim that is set to None is left out."""
    valid = {"iss": "https://issuer.test", "sub": "user-1", "aud": "branchline", "exp": time.time() + 600}
    return {name: value for name, value in {**valid, **changes}.items() if value is not None}


def hs_token(changes=None, **header):
    return jwt.encode(claims(**(changes or {})), SECRET, algorithm="HS256", headers=header)


def encode_part(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hand_made(header, payload, key):
    """Return a token signed with HMAC-SHA256 whatever its header says and whatever the key looks like."""
    signed = f"{encode_part(header)}.{encode_part(payload)}"
    return f"{signed}.{encode_part(hmac.digest(key, signed.encode(), 'sha256'))}"


@pytest.fixture
async def server(aiohttp_server):
    server = KeyServer(public_jwk("RSA", "rsa"), public_jwk("P-256", "ec"), public_jwk("Ed25519", "ed"))
    running = await aiohttp_server(server.app())
    server.url = str(running.make_url("/jwks"))
    return server


@pytest.fixture
def remote(server, session, clock):
    """Return an authenticator that knows the server's keys."""
    settings = JwtConfig(
        algorithms=("RS256", "ES256", "EdDSA"),
        jwks_url=server.url,
        issuer="https://issuer.test",
        audience=("branchline", "other"),
        leeway_seconds=5,
    )
    return create_authenticator(configured(AuthConfig(mode="jwt", jwt=settings)), session, clock=clock)


@pytest.fixture
def with_secret(session):
    """Return an authenticator for HS256."""
    settings = JwtConfig(algorithms=("HS256",), secret=SECRET)
    return create_authenticator(configured(AuthConfig(mode="jwt", jwt=settings)), session)


@pytest.fixture
def passthrough(session):
    return create_authenticator(configured(AuthConfig(), api_key=Secret("")), session)


def test_a_caller_hides_its_credential():
    caller = Caller("token:abc", {"api-key": "sk-secret"})
    assert repr(caller) == "Caller(owner='token:abc')"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_names_and_addresses_are_told_from_public_ones(host, expected):
    assert is_loopback(host) is expected


# Bearer tokens

BAD_HEADERS = {
    "empty value": [""],
    "scheme alone": ["Bearer"],
    "empty token": ["Bearer "],
    "another scheme": ["Basic dXNlcjpwYXNz"],
    "token without scheme": ["sk-secret"],
    "no space": ["Bearersk-secret"],
    "two tokens": ["Bearer sk-secret sk-other"],
    "two headers": ["Bearer sk-secret", "Bearer sk-other"],
    "same header twice": ["Bearer sk-secret", "Bearer sk-secret"],
    "oversized": ["Bearer " + "a" * (16 * 1024 + 1)],
    "control character": ["Bearer sk-\x00secret"],
    "delete character": ["Bearer sk-secret\x7f"],
    "non-breaking space": ["Bearer \xa0sk-secret"],
    "tab": ["Bearer\tsk-secret"],
    "line break": ["Bearer sk-secret\r\n"],
    "not ASCII": ["Bearer sk-geheimnisträger"],
    "undecodable": ["Bearer sk-\udcff"],
}


@pytest.mark.parametrize("values", BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_a_malformed_credential_is_refused_even_where_none_is_needed(passthrough, values):
    with pytest.raises(Unauthorized):
        await passthrough.authenticate(headers(*values))


@pytest.mark.parametrize("value", ["Bearer sk-secret", "bearer sk-secret", "BEARER   sk-secret"])
async def test_the_scheme_is_read_in_any_case(passthrough, value):
    caller = await passthrough.authenticate(headers(value))
    assert caller.owner == f"token:{sha256('sk-secret')}"


async def test_the_header_name_is_read_in_any_case(passthrough):
    caller = await passthrough.authenticate(headers("Bearer sk-secret", name="AUTHORIZATION"))
    assert caller.owner == f"token:{sha256('sk-secret')}"
    with pytest.raises(Unauthorized):
        await passthrough.authenticate(
            CIMultiDictProxy(CIMultiDict([("authorization", "Bearer a"), ("Authorization", "Bearer b")]))
        )


async def test_a_token_of_the_largest_size_is_taken(passthrough):
    token = "a" * (16 * 1024)
    assert (await passthrough.authenticate(bearer(token))).owner == f"token:{sha256(token)}"


# passthrough


async def test_passthrough_forwards_the_header_of_the_caller_as_it_came(passthrough):
    caller = await passthrough.authenticate(headers("bearer sk-secret"))
    assert caller.credentials == {"Authorization": "bearer sk-secret"}


async def test_passthrough_tells_tokens_apart_to_the_letter(passthrough):
    owners = {(await passthrough.authenticate(bearer(token))).owner for token in ("sk-a", "sk-A", "sk-a=")}
    assert len(owners) == 3


async def test_passthrough_sends_the_configured_key_in_place_of_the_caller_s(session):
    passthrough = create_authenticator(configured(AuthConfig()), session)
    caller = await passthrough.authenticate(bearer("sk-secret"))
    assert caller == Caller(f"token:{sha256('sk-secret')}", UPSTREAM)


@pytest.mark.parametrize(("api_key", "credentials"), [(API_KEY, UPSTREAM), (Secret(""), {})])
async def test_passthrough_without_a_token_is_anonymous_on_loopback(session, api_key, credentials):
    passthrough = create_authenticator(configured(AuthConfig(), api_key=api_key), session)
    assert await passthrough.authenticate(headers()) == Caller("anonymous", credentials)


async def test_passthrough_without_a_token_is_refused_on_a_public_address(session):
    passthrough = create_authenticator(configured(AuthConfig(), host="0.0.0.0"), session)
    with pytest.raises(Unauthorized):
        await passthrough.authenticate(headers())


async def test_headers_of_a_real_request_are_understood(aiohttp_client, passthrough):
    async def whoami(request):
        return web.Response(text=(await passthrough.authenticate(request.headers)).owner)

    app = web.Application()
    app.router.add_get("/", whoami)
    client = await aiohttp_client(app)
    async with client.get("/", headers={"Authorization": "Bearer sk-secret"}) as response:
        assert await response.text() == f"token:{sha256('sk-secret')}"


# api-key and x-api-key


def sent(*pairs):
    """Return the headers of a request with these credentials."""
    return CIMultiDictProxy(CIMultiDict([("Host", "localhost"), *pairs]))


def taking_keys(session):
    """Return, for each mode that takes a credential, its authenticator, a good token and its owner."""
    keys = AuthConfig(mode="api_keys", api_keys={"alice": sha256("key-a")})
    signed = AuthConfig(mode="jwt", jwt=JwtConfig(algorithms=("HS256",), secret=SECRET))
    subject = sha256("https://issuer.test\nuser-1")
    return {
        "passthrough": (create_authenticator(configured(AuthConfig()), session), "sk-a", f"token:{sha256('sk-a')}"),
        "api_keys": (create_authenticator(configured(keys), session), "key-a", "key:alice"),
        "jwt": (create_authenticator(configured(signed), session), hs_token(), f"jwt:{subject}"),
    }


MODES = ["passthrough", "api_keys", "jwt"]


@pytest.mark.parametrize("name", ["api-key", "Api-Key", "x-api-key", "X-API-Key"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_bare_key_names_the_same_owner_as_a_bearer_token(session, mode, name):
    authenticator, token, owner = taking_keys(session)[mode]
    assert (await authenticator.authenticate(bearer(token))).owner == owner
    assert await authenticator.authenticate(sent((name, token))) == Caller(owner, UPSTREAM)


@pytest.mark.parametrize("name", ["api-key", "x-api-key"])
async def test_two_bare_keys_are_two_owners_and_nobody_is_anonymous_with_one(passthrough, name):
    owners = [(await passthrough.authenticate(sent((name, key)))).owner for key in ("sk-a", "sk-b")]
    assert owners == [f"token:{sha256('sk-a')}", f"token:{sha256('sk-b')}"]


@pytest.mark.parametrize("name", ["Authorization", "api-key", "X-Api-Key"])
async def test_passthrough_forwards_a_credential_in_the_header_that_it_came_in(passthrough, name):
    value = "Bearer sk-a" if name == "Authorization" else "sk-a"
    assert (await passthrough.authenticate(sent((name, value)))).credentials == {name: value}


async def test_one_key_in_several_headers_is_one_credential(passthrough):
    pairs = [("Authorization", "Bearer sk-a"), ("api-key", "sk-a"), ("x-api-key", "sk-a")]
    assert await passthrough.authenticate(sent(*pairs)) == Caller(f"token:{sha256('sk-a')}", dict(pairs))


@pytest.mark.parametrize(
    "pairs",
    [
        [("Authorization", "Bearer {}"), ("api-key", "sk-other")],
        [("api-key", "sk-other"), ("Authorization", "Bearer {}")],
        [("api-key", "{}"), ("x-api-key", "sk-other")],
        [("Authorization", "Bearer {}"), ("api-key", "{}"), ("x-api-key", "sk-other")],
    ],
)
@pytest.mark.parametrize("mode", MODES)
async def test_credentials_that_contradict_each_other_are_refused_by_the_names_of_their_headers(
    session, caplog, mode, pairs
):
    caplog.set_level(logging.DEBUG)
    authenticator, token, _ = taking_keys(session)[mode]
    with pytest.raises(BadRequest) as caught:
        await authenticator.authenticate(sent(*[(name, value.format(token)) for name, value in pairs]))
    assert caught.value.code == "conflicting_credentials"
    assert all(f"'{name}'" in caught.value.message for name, _ in pairs)
    for secret in (token, "sk-other"):
        assert secret not in caught.value.message + caplog.text


BAD_KEYS = {
    "empty": [""],
    "with a scheme": ["Bearer sk-secret"],
    "same header twice": ["sk-secret", "sk-secret"],
    "two keys": ["sk-secret", "sk-other"],
    "oversized": ["a" * (16 * 1024 + 1)],
    "control character": ["sk-\x00secret"],
    "not ASCII": ["sk-geheimnisträger"],
    "undecodable": ["sk-\udcff"],
}


@pytest.mark.parametrize("values", BAD_KEYS.values(), ids=BAD_KEYS)
@pytest.mark.parametrize("name", ["api-key", "x-api-key"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_malformed_bare_key_is_refused_like_any_other_credential(session, caplog, mode, name, values):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unauthorized) as caught:
        await taking_keys(session)[mode][0].authenticate(headers(*values, name=name))
    assert error_body(caught.value, "req_1") == error_body(Unauthorized(), "req_1")
    assert "sk-" not in caplog.text


# api_keys and none


@pytest.fixture
def with_keys(session):
    auth = AuthConfig(mode="api_keys", api_keys={"alice": sha256("key-a"), "bob": sha256("key-b")})
    return create_authenticator(configured(auth), session)


async def test_an_api_key_names_its_owner_and_is_not_forwarded(with_keys):
    assert await with_keys.authenticate(bearer("key-a")) == Caller("key:alice", UPSTREAM)
    assert await with_keys.authenticate(bearer("key-b")) == Caller("key:bob", UPSTREAM)


@pytest.mark.parametrize("token", ["key-c", "KEY-A", "alice", sha256("key-a")])
async def test_an_unknown_api_key_is_refused(with_keys, token):
    with pytest.raises(Unauthorized):
        await with_keys.authenticate(bearer(token))


async def test_api_keys_admit_nobody_without_a_key_even_on_loopback(with_keys):
    with pytest.raises(Unauthorized):
        await with_keys.authenticate(headers())


async def test_mode_none_takes_everybody_for_the_local_owner_and_forwards_no_token(session):
    local = create_authenticator(configured(AuthConfig(mode="none")), session)
    keys = [sent(("api-key", "sk-a"), ("x-api-key", "sk-b"))]
    for shown in (headers(), bearer("sk-secret"), headers("nonsense"), *keys):
        assert await local.authenticate(shown) == Caller("local", UPSTREAM)


async def test_without_a_configured_key_nothing_is_sent_upstream(session):
    auth = AuthConfig(mode="api_keys", api_keys={"alice": sha256("key-a")})
    with_keys = create_authenticator(configured(auth, api_key=Secret("")), session)
    assert await with_keys.authenticate(bearer("key-a")) == Caller("key:alice", {})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (configured(AuthConfig(mode="none"), host="0.0.0.0"), "auth.mode: none on a public address"),
        (configured(AuthConfig(mode="api_keys")), "auth.api_keys: at least one key is needed"),
        (
            configured(AuthConfig(mode="api_keys", api_keys={"a": sha256("k"), "b": sha256("k")})),
            "auth.api_keys: two names have the same key",
        ),
        (configured(AuthConfig(mode="jwt")), "auth.jwt.algorithms: at least one is needed"),
    ],
)
async def test_settings_that_are_not_safe_are_refused_by_name(session, config, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        create_authenticator(config, session)


async def test_mode_none_on_a_public_address_can_be_allowed(session):
    auth = AuthConfig(mode="none", allow_public_none=True)
    local = create_authenticator(configured(auth, host="0.0.0.0"), session)
    assert (await local.authenticate(headers())).owner == "local"


# Tokens that are accepted


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        ("RSA", "RS256"),
        ("RSA", "RS384"),
        ("RSA", "RS512"),
        ("RSA", "PS256"),
        ("RSA", "PS384"),
        ("RSA", "PS512"),
        ("P-256", "ES256"),
        ("P-384", "ES384"),
        ("P-521", "ES512"),
        ("Ed25519", "EdDSA"),
        ("Ed448", "EdDSA"),
    ],
)
async def test_a_token_is_verified_with_a_key_file_and_with_a_key_set(session, server, tmp_path, kind, algorithm):
    server.serve(public_jwk("RSA", "other"), public_jwk(kind, "k"))
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(private_key(kind, "k")))
    token = jwt.encode(claims(), private_key(kind, "k"), algorithm, {"kid": "k"})
    for source in ({"key_file": str(path)}, {"jwks_url": server.url}):
        auth = AuthConfig(mode="jwt", jwt=JwtConfig(algorithms=(algorithm,), **source))
        caller = await create_authenticator(configured(auth), session).authenticate(bearer(token))
        assert caller == Caller(f"jwt:{sha256('https://issuer.test' + chr(10) + 'user-1')}", UPSTREAM)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_token_is_verified_with_a_shared_secret(session, algorithm):
    auth = AuthConfig(mode="jwt", jwt=JwtConfig(algorithms=("HS256", "HS384", "HS512"), secret=SECRET))
    authenticator = create_authenticator(configured(auth, api_key=Secret("")), session)
    caller = await authenticator.authenticate(bearer(jwt.encode(claims(), SECRET, algorithm)))
    assert caller == Caller(f"jwt:{sha256('https://issuer.test' + chr(10) + 'user-1')}", {})


@pytest.mark.parametrize(("kid", "kind", "algorithm"), [("rsa", "RSA", "RS256"), ("ed", "Ed25519", "EdDSA")])
async def test_the_key_id_chooses_among_keys_of_several_types(remote, kid, kind, algorithm):
    token = jwt.encode(claims(), private_key(kind, kid), algorithm, {"kid": kid})
    assert (await remote.authenticate(bearer(token))).owner.startswith("jwt:")


def accepted_claims():
    now = time.time()
    return {
        "one of several audiences": {"aud": ["nobody", "other"]},
        "expired within the leeway": {"exp": now - 2},
        "valid soon, within the leeway": {"nbf": now + 3},
        "issued in the future, within the leeway": {"iat": now + 3},
    }


@pytest.mark.parametrize("case", accepted_claims())
async def test_claims_within_the_rules_are_accepted(remote, case):
    # made now, not when the tests were collected: the whole suite takes longer than the leeway
    token = jwt.encode(claims(**accepted_claims()[case]), private_key("RSA", "rsa"), "RS256", {"kid": "rsa"})
    assert (await remote.authenticate(bearer(token))).owner.startswith("jwt:")


@pytest.mark.parametrize("changes", [{"aud": "anybody"}, {"aud": None}, {"iss": "https://any.test"}])
async def test_audience_and_issuer_are_free_where_they_are_not_configured(with_secret, changes):
    assert (await with_secret.authenticate(bearer(hs_token(changes)))).owner.startswith("jwt:")


async def test_issuer_and_subject_together_name_the_owner(with_secret):
    pairs = [{}, {"sub": "user-2"}, {"iss": "https://other.test"}, {"iss": None}, {"sub": "\ud800"}]
    owners = [(await with_secret.authenticate(bearer(hs_token(pair)))).owner for pair in pairs]
    assert len(set(owners)) == len(pairs)
    assert {len(owner) for owner in owners} == {len("jwt:") + 64}


async def test_other_tokens_of_the_same_subject_give_the_same_owner(with_secret):
    tokens = [hs_token(), hs_token({"jti": "other", "aud": "elsewhere", "exp": time.time() + 60})]
    assert len({(await with_secret.authenticate(bearer(token))).owner for token in tokens}) == 1


async def test_a_token_without_key_id_is_verified_with_the_only_usable_key(server, session):
    server.serve(public_jwk("RSA", "rsa"), public_jwk("RSA", "encryption", use="enc"), public_jwk("P-256", "ec"))
    auth = AuthConfig(mode="jwt", jwt=JwtConfig(algorithms=("RS256",), jwks_url=server.url))
    token = jwt.encode(claims(), private_key("RSA", "rsa"), "RS256")
    caller = await create_authenticator(configured(auth), session).authenticate(bearer(token))
    assert caller.owner.startswith("jwt:")


async def test_key_sources_in_the_header_are_ignored_when_the_configured_key_signed(remote):
    header = {"kid": "rsa", "jku": "https://evil.test/", "x5u": "https://evil.test/", "jwk": {"kty": "RSA"}}
    token = jwt.encode(claims(), private_key("RSA", "rsa"), "RS256", header)
    assert (await remote.authenticate(bearer(token))).owner.startswith("jwt:")


# Tokens that are refused


def rsa_signed(changes=None, algorithm="RS256", **header):
    return jwt.encode(claims(**(changes or {})), private_key("RSA", "rsa"), algorithm, {"kid": "rsa", **header})


def rsa_made(header, payload):
    """Return a token signed with the right key, with a header that PyJWT would not write."""
    signed = f"{encode_part(header)}.{encode_part(payload)}"
    signature = jwt.get_algorithm_by_name("RS256").sign(signed.encode(), private_key("RSA", "rsa"))
    return f"{signed}.{encode_part(signature)}"


def refused_tokens(url):
    now = time.time()
    rsa, other = private_key("RSA", "rsa"), private_key("RSA", "other")
    hs256, pem = {"alg": "HS256", "kid": "rsa"}, public_pem(rsa)
    other_jwk = as_jwk(other.public_key())
    good = rsa_signed()
    head, payload, signature = good.split(".")
    return {
        "algorithm none": f"{encode_part({'alg': 'none', 'kid': 'rsa'})}.{payload}.",
        "algorithm None": f"{encode_part({'alg': 'None', 'kid': 'rsa'})}.{payload}.",
        "no algorithm": f"{encode_part({'kid': 'rsa'})}.{payload}.{signature}",
        "algorithm that is no string": f"{encode_part({'alg': ['RS256'], 'kid': 'rsa'})}.{payload}.{signature}",
        "algorithm that is not configured": rsa_signed(algorithm="RS512"),
        "algorithm that is not configured, unknown key id": rsa_signed(algorithm="RS512", kid="unknown"),
        "PSS in place of PKCS 1": rsa_signed(algorithm="PS256"),
        "HMAC with the public key as secret": hand_made(hs256, claims(), pem),
        "HMAC with the public key, called RS256": hand_made({"alg": "RS256", "kid": "rsa"}, claims(), pem),
        "algorithm of another key's type": rsa_signed(kid="ec"),
        "EC signature under the RSA key's id": jwt.encode(
            claims(), private_key("P-256", "ec"), "ES256", {"kid": "rsa"}
        ),
        "another key": jwt.encode(claims(), other, "RS256", {"kid": "rsa"}),
        "embedded key": jwt.encode(claims(), other, "RS256", {"kid": "rsa", "jwk": other_jwk}),
        "embedded key, no key id": jwt.encode(claims(), other, "RS256", {"jwk": other_jwk}),
        "key address": jwt.encode(claims(), other, "RS256", {"kid": "x", "jku": url, "x5u": url}),
        "unknown key id": rsa_signed(kid="unknown"),
        "key id that is no string": rsa_signed(kid="rsa").replace(head, encode_part({"alg": "RS256", "kid": 7})),
        "no key id among several keys": jwt.encode(claims(), rsa, "RS256"),
        "crit that PyJWT takes": rsa_made({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": True}, claims()),
        "unknown crit": rsa_signed(crit=["x"], x=1),
        "wrong audience": rsa_signed({"aud": "else"}),
        "wrong audiences": rsa_signed({"aud": ["else", "Branchline"]}),
        "audience that is no string": rsa_signed({"aud": [["branchline"]]}),
        "no audience": rsa_signed({"aud": None}),
        "wrong issuer": rsa_signed({"iss": "https://issuer.test/"}),
        "no issuer": rsa_signed({"iss": None}),
        "expired": rsa_signed({"exp": now - 6}),
        "no expiry": rsa_signed({"exp": None}),
        "expiry that is no number": rsa_signed({"exp": "tomorrow"}),
        "endless": rsa_signed({"exp": float("inf")}),
        "not yet valid": rsa_signed({"nbf": now + 10}),
        "issued in the future": rsa_signed({"iat": now + 10}),
        "no subject": rsa_signed({"sub": None}),
        "empty subject": rsa_signed({"sub": ""}),
        "subject that is no string": rsa_signed({"sub": 7}),
        "payload of another token": f"{head}.{encode_part(claims(sub='admin'))}.{signature}",
        "signature cut off": f"{head}.{payload}.",
        "two parts": f"{head}.{payload}",
        "four parts": f"{good}.{signature}",
        "no token at all": "sk-secret",
        "header that is no JSON": f"{encode_part(b'{')}.{payload}.{signature}",
        "header that is no object": f"{encode_part([])}.{payload}.{signature}",
        "header nested too deeply": f"{encode_part(b'[' * 5000)}.{payload}.{signature}",
        "payload that is no object": jwt.PyJWS().encode(b"[]", rsa, "RS256", {"kid": "rsa"}),
        "payload nested too deeply": jwt.PyJWS().encode(b"[" * 5000, rsa, "RS256", {"kid": "rsa"}),
        "oversized": rsa_signed({"padding": "a" * 16 * 1024}),
    }


@pytest.mark.parametrize("name", refused_tokens(""))
async def test_a_token_against_the_rules_is_refused_with_one_and_the_same_answer(remote, server, name):
    with pytest.raises(Unauthorized) as caught:
        await remote.authenticate(bearer(refused_tokens(server.url)[name]))
    assert error_body(caught.value, "req_1") == error_body(Unauthorized(), "req_1")
    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="branchline"'}


@pytest.mark.parametrize("values", [[], *BAD_HEADERS.values()])
async def test_a_malformed_header_gets_the_same_answer_as_a_bad_token(remote, server, values):
    with pytest.raises(Unauthorized) as caught:
        await remote.authenticate(headers(*values))
    assert error_body(caught.value, "req_1") == error_body(Unauthorized(), "req_1")
    assert caught.value.headers == Unauthorized().headers
    assert server.requests == 0


HOSTILE_CLAIMS: dict[str, list[Any]] = {
    "exp": ["x", str(2**40), "inf", [], {}, True, False, float("nan"), float("inf"), -(10**300)],
    "nbf": ["x", "0", True, [], {}, float("nan"), float("inf"), 10**300],
    "iat": ["x", "0", True, [], {}, float("nan"), float("inf"), 10**300],
    "sub": [0, False, [], {}, ""],
    "jti": [0, [], {}],
    "iss": ["a\nb"],
}


@pytest.mark.parametrize(
    "changes", [{name: value} for name, values in HOSTILE_CLAIMS.items() for value in values], ids=repr
)
async def test_claims_of_the_wrong_kind_are_refused(with_secret, changes):
    with pytest.raises(Unauthorized):
        await with_secret.authenticate(bearer(hs_token(changes)))


@pytest.mark.parametrize("issuer", [7, [], {}])
async def test_an_issuer_of_the_wrong_kind_is_refused(with_secret, issuer):
    token = hand_made({"alg": "HS256"}, claims(iss=issuer), SECRET.encode())
    with pytest.raises(Unauthorized):
        await with_secret.authenticate(bearer(token))


async def test_a_token_that_hardly_ever_expires_is_accepted(with_secret):
    for _ in range(2):
        assert (await with_secret.authenticate(bearer(hs_token({"exp": 10**300})))).owner.startswith("jwt:")


@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "b64", "crit", "x"]),
        st.from_type(type(None)) | st.integers() | st.text() | st.lists(st.text()),
    ),
    payload=st.binary(max_size=50),
    tail=st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=50),
)
def test_no_token_text_raises_anything_but_unauthorized(header, payload, tail):
    settings = JwtConfig(algorithms=("HS256",), secret=SECRET)
    session: Any = None
    authenticator = create_authenticator(configured(AuthConfig(mode="jwt", jwt=settings)), session)
    signed = hand_made({"alg": "HS256", **header}, payload, SECRET.encode())
    for token in (signed, f"{encode_part(header)}.{encode_part(payload)}.{tail}", tail or "x"):
        with pytest.raises(Unauthorized):
            authenticator.authenticate(bearer(token)).send(None)


async def test_the_log_says_which_check_failed_and_nothing_of_the_token(remote, caplog):
    caplog.set_level(logging.DEBUG, logger="proxy")
    token = rsa_signed({"exp": time.time() - 60, "sub": "user-secret"})
    with pytest.raises(Unauthorized):
        await remote.authenticate(bearer(token))
    ours = [record for record in caplog.records if record.name == "proxy.auth.authenticators"]
    assert [(record.levelname, record.getMessage()) for record in ours] == [("DEBUG", "refused: ExpiredSignatureError")]
    assert not any(part in caplog.text for part in [*token.split("."), "user-secret"])


async def test_a_refusal_shows_nothing_of_its_cause_in_a_traceback(with_secret):
    with pytest.raises(Unauthorized) as caught:
        await with_secret.authenticate(bearer(hs_token(crit=["user-" + "secret"])))
    assert "user-secret" not in "".join(traceback.format_exception(caught.value))


# Keys that change


async def test_a_token_of_a_new_key_is_accepted_before_the_key_set_is_old(remote, server):
    await remote.authenticate(bearer(rsa_signed()))
    server.serve(public_jwk("RSA", "rsa"), public_jwk("RSA", "new"))
    token = jwt.encode(claims(), private_key("RSA", "new"), "RS256", {"kid": "new"})
    assert (await remote.authenticate(bearer(token))).owner.startswith("jwt:")
    assert server.requests == 2


async def test_a_flood_of_unknown_key_ids_fetches_the_key_set_once(remote, server, clock):
    await remote.authenticate(bearer(rsa_signed()))
    for number in range(20):
        with pytest.raises(Unauthorized):
            await remote.authenticate(bearer(rsa_signed(kid=f"unknown-{number}")))
    assert server.requests == 2
    clock.advance(10)
    with pytest.raises(Unauthorized):
        await remote.authenticate(bearer(rsa_signed(kid="unknown")))
    assert server.requests == 3


@pytest.mark.parametrize(
    "name",
    [
        "algorithm none",
        "algorithm that is not configured, unknown key id",
        "unknown crit",
        "no token at all",
        "no key id among several keys",
    ],
)
async def test_a_token_that_fails_by_its_header_fetches_nothing_more(remote, server, name):
    await remote.authenticate(bearer(rsa_signed()))
    with pytest.raises(Unauthorized):
        await remote.authenticate(bearer(refused_tokens(server.url)[name]))
    assert server.requests == 1


async def test_tokens_stay_valid_while_the_key_set_cannot_be_refreshed(remote, server, clock):
    await remote.authenticate(bearer(rsa_signed()))
    server.fail()
    clock.advance(300)
    assert (await remote.authenticate(bearer(rsa_signed({"jti": "new"})))).owner.startswith("jwt:")
    assert server.requests == 2


async def test_without_any_keys_the_answer_is_unavailable_and_not_unauthorized(remote, server):
    server.fail()
    with pytest.raises(ServiceUnavailable) as caught:
        await remote.authenticate(bearer(rsa_signed()))
    assert caught.value.status == 503


async def test_a_verified_token_is_refused_once_its_key_is_withdrawn(remote, server, clock):
    token = rsa_signed()
    await remote.authenticate(bearer(token))
    server.serve(public_jwk("RSA", "new"))
    clock.advance(300)
    with pytest.raises(Unauthorized):
        await remote.authenticate(bearer(token))


# Memory of verified tokens


@pytest.fixture
def verified(monkeypatch):
    """Return the list of tokens that PyJWT verified from now on."""
    tokens: list[str] = []
    decode = jwt.decode

    def counting(token, *args, **kwargs):
        tokens.append(token)
        return decode(token, *args, **kwargs)

    monkeypatch.setattr(jwt, "decode", counting)
    return tokens


async def test_a_token_is_verified_once_while_the_keys_stay(remote, verified, clock):
    token = rsa_signed()
    owners = {(await remote.authenticate(bearer(token))).owner for _ in range(3)}
    clock.advance(300)
    owners.add((await remote.authenticate(bearer(token))).owner)
    assert verified == [token]
    assert len(owners) == 1


async def test_a_token_is_verified_again_after_the_keys_changed(remote, server, verified, clock):
    token = rsa_signed()
    await remote.authenticate(bearer(token))
    server.serve(public_jwk("RSA", "rsa"), public_jwk("RSA", "new"))
    clock.advance(300)
    await remote.authenticate(bearer(token))
    assert verified == [token, token]


async def test_a_token_that_lives_on_its_leeway_is_verified_every_time(remote, verified):
    token = rsa_signed({"exp": time.time() - 1})
    for _ in range(2):
        await remote.authenticate(bearer(token))
    assert verified == [token, token]


async def test_a_refused_token_is_not_remembered(remote, verified):
    token = rsa_signed({"sub": ""})
    for _ in range(2):
        with pytest.raises(Unauthorized):
            await remote.authenticate(bearer(token))
    assert verified == [token, token]


def test_a_remembered_token_is_forgotten_at_its_expiry():
    keys, clock = KeySet(()), Clock()
    cache = TokenCache(now=clock)
    cache.put(keys, b"digest", "jwt:owner", 1010)
    clock.advance(9)
    assert cache.get(keys, b"digest") == ("jwt:owner", 1010)
    clock.advance(1)
    assert cache.get(keys, b"digest") is None
    assert len(cache) == 0


def test_the_token_that_was_not_used_for_longest_is_forgotten_first():
    keys = KeySet(())
    cache = TokenCache(limit=2, now=Clock())
    for digest in (b"a", b"b"):
        cache.put(keys, digest, "jwt:owner", 2000)
    cache.get(keys, b"a")
    cache.put(keys, b"c", "jwt:owner", 2000)
    assert [cache.get(keys, digest) for digest in (b"a", b"b", b"c")] == [
        ("jwt:owner", 2000),
        None,
        ("jwt:owner", 2000),
    ]


def test_other_keys_empty_the_memory_of_tokens():
    old, new = KeySet(()), KeySet(())
    cache = TokenCache(now=Clock())
    cache.put(old, b"digest", "jwt:owner", 2000)
    assert cache.get(new, b"digest") is None
    assert cache.get(old, b"digest") is None
