"""Authenticators: who the caller is, and which credential goes upstream in its name.

    auth.mode     owner                              credential sent upstream
    passthrough   token:<SHA-256 of the token>       upstream.api_key, else the caller's own, in the headers it came in
                  anonymous (none sent, loopback)    upstream.api_key, else none
    jwt           jwt:<SHA-256 of iss, \\n, sub>      upstream.api_key, else none
    api_keys      key:<name>                         upstream.api_key, else none
    none          local                              upstream.api_key, else none

A credential is a token in `Authorization: Bearer <token>` (RFC 6750, 2.1), `api-key: <token>` (clients for Azure) or
`x-api-key: <token>`: the same token in any of them is the same caller, other tokens in two of them are refused. All
other refusals are one and the same answer; which check failed is in the log at level debug, without any text of the
token.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, assert_never

import jwt

from proxy.auth.caller import CREDENTIAL_HEADERS, Authenticator, Caller
from proxy.auth.jwks import KeySet, KeySource, VerificationKey, create_key_source
from proxy.config.values import is_loopback
from proxy.protocol.errors import BadRequest, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import aiohttp

    from proxy.config.settings import AuthConfig, Config, JwtConfig

logger = logging.getLogger(__name__)

#: Longest token that is looked at, in characters.
MAX_TOKEN_LENGTH = 16 * 1024
#: Callers that are remembered at most, and the longest credentials by which one is, in characters.
MAX_KNOWN_CALLERS = 1024
MAX_KNOWN_LENGTH = 512
#: Unix seconds that stand for any later end of a token: an integer may be too large for a float.
LATEST_EXPIRY = 2**53
#: Verified tokens that are remembered at most.
MAX_VERIFIED_TOKENS = 4096


def create_authenticator(
    config: Config, session: aiohttp.ClientSession, *, clock: Callable[[], float] = time.monotonic
) -> Authenticator:
    """Return the authenticator for `auth.mode`.

    session: fetches key sets. clock: monotonic seconds, by which they age.
    Raises ValueError, with a message that names the key, for settings that can't work or are not safe.
    """
    upstream = upstream_credentials(config)
    loopback = is_loopback(config.server.host)
    match config.auth.mode:
        case "passthrough":
            return PassthroughAuthenticator(upstream, allow_anonymous=loopback)
        case "jwt":
            keys = create_key_source(config.auth.jwt, session, clock)
            return JwtAuthenticator(config.auth.jwt, keys, upstream)
        case "api_keys":
            return KeyAuthenticator(_names_by_hash(config.auth), upstream)
        case "none":
            if not loopback and not config.auth.allow_public_none:
                raise ValueError("auth.mode: none on a public address needs auth.allow_public_none = true")
            return LocalAuthenticator(upstream)
        case _:
            assert_never(config.auth.mode)


def upstream_credentials(config: Config) -> Mapping[str, str]:
    """Return the headers that go to the model server whoever calls, none if every caller brings its own."""
    return {"Authorization": f"Bearer {config.upstream.api_key}"} if config.upstream.api_key else {}


class PassthroughAuthenticator:
    """Takes the caller's upstream key as its identity; whether it is valid is for the upstream to say."""

    def __init__(self, upstream: Mapping[str, str], *, allow_anonymous: bool) -> None:
        self._upstream = upstream
        self._allow_anonymous = allow_anonymous
        self._known = CallerCache()

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller that the token's hash names, or `anonymous`. Raises as Authenticator says."""
        sent = _sent_credentials(headers)
        if (known := self._known.get(sent)) is not None:
            return known
        if not sent and self._allow_anonymous:
            return Caller("anonymous", self._upstream)
        return self._known.put(sent, Caller(f"token:{_sha256(_token(sent))}", self._upstream or dict(sent)))


class KeyAuthenticator:
    """Knows callers by the SHA-256 of a key of theirs; `names` maps it (hex) to the owner's name."""

    def __init__(self, names: Mapping[str, str], upstream: Mapping[str, str]) -> None:
        self._names = names
        self._upstream = upstream
        self._known = CallerCache()

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller whose key this is. Raises as Authenticator says."""
        sent = _sent_credentials(headers)
        if (known := self._known.get(sent)) is not None:
            return known
        # Its time depends on hashes alone, and nobody can steer SHA-256 towards a stored one
        name = self._names.get(_sha256(_token(sent)))
        if name is None:
            raise _refusal("unknown API key")
        return self._known.put(sent, Caller(f"key:{name}", self._upstream))


class LocalAuthenticator:
    """Takes everybody for the one owner `local`."""

    def __init__(self, upstream: Mapping[str, str]) -> None:
        self._caller = Caller("local", upstream)

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return the one caller."""
        return self._caller


class JwtAuthenticator:
    """Knows callers by issuer and subject of a signed token (RFC 7519, by the rules of RFC 8725)."""

    def __init__(self, config: JwtConfig, keys: KeySource, upstream: Mapping[str, str]) -> None:
        self._config = config
        self._keys = keys
        self._upstream = upstream
        self._verified = TokenCache()

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller that the token names. Raises as Authenticator says."""
        token = _token(_sent_credentials(headers))
        digest = hashlib.sha256(token.encode()).digest()
        # Before the cache: it must not outlive the keys that its entries were verified with
        keys = await self._keys.current()
        owner, expires_at = self._verified.get(keys, digest) or await self._verify(token, digest, keys)
        return Caller(owner, self._upstream, expires_at + self._config.leeway_seconds)

    async def _verify(self, token: str, digest: bytes, keys: KeySet) -> tuple[str, int]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as exc:
            raise _refusal(type(exc).__name__) from None
        algorithm, kid = self._check_header(header), header.get("kid")
        if kid is not None and not keys.matching(kid):
            keys = await self._keys.renewed()
        claims = self._decode(token, algorithm, keys.matching(kid))
        owner, expires_at = owner_of_claims(claims), min(int(claims["exp"]), LATEST_EXPIRY)
        self._verified.put(keys, digest, owner, expires_at)
        return owner, expires_at

    def _check_header(self, header: Mapping[str, Any]) -> str:
        # RFC 7515, 4.1.11: extensions that aren't understood must be refused, and none is understood here
        if "crit" in header:
            raise _refusal("crit header")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._config.algorithms:
            raise _refusal("algorithm not allowed")
        return algorithm

    def _decode(self, token: str, algorithm: str, keys: tuple[VerificationKey, ...]) -> dict[str, Any]:
        key = next((key for key in keys if algorithm in key.algorithms), None)
        if key is None:
            raise _refusal("no key for key id and algorithm")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.material,
                algorithms=[algorithm],
                options={"require": ["exp", "sub"], "verify_aud": bool(self._config.audience)},
                audience=self._config.audience or None,
                issuer=self._config.issuer or None,
                leeway=self._config.leeway_seconds,
            )
        except jwt.PyJWTError as exc:
            raise _refusal(type(exc).__name__) from None
        _check_dates(claims)
        return claims


class CallerCache:
    """Callers by the credentials that they sent, so that these need not be looked at and hashed with every request.

    Only those that were accepted, at most `limit` of them; the one that has been here longest goes first.
    """

    def __init__(self, limit: int = MAX_KNOWN_CALLERS) -> None:
        self._limit = limit
        self._callers: dict[tuple[tuple[str, str], ...], Caller] = {}

    def get(self, sent: Sequence[tuple[str, str]]) -> Caller | None:
        """Return whoever sent exactly these headers before."""
        return self._callers.get(tuple(sent))

    def put(self, sent: Sequence[tuple[str, str]], caller: Caller) -> Caller:
        """Remember a caller, unless its credentials are very long; return it."""
        if sum(len(value) for _, value in sent) <= MAX_KNOWN_LENGTH:
            if len(self._callers) >= self._limit:
                del self._callers[next(iter(self._callers))]
            self._callers[tuple(sent)] = caller
        return caller


class TokenCache:
    """Owners of tokens that were verified with the keys in force, by SHA-256 of the token, until they expire.

    Holds at most `limit`, the least recently used go first; another KeySet empties it. `now` gives Unix
    seconds, the clock that `exp` is written in.
    """

    def __init__(self, limit: int = MAX_VERIFIED_TOKENS, now: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._now = now
        self._keys: KeySet | None = None
        self._entries: OrderedDict[bytes, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, keys: KeySet, digest: bytes) -> tuple[str, int] | None:
        """Return the owner of a token that `keys` verified and that has not expired, and when it will."""
        self._adopt(keys)
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry[1] <= self._now():
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return entry

    def put(self, keys: KeySet, digest: bytes, owner: str, expires_at: int) -> None:
        """Remember the owner of a token that `keys` verified; `expires_at` in Unix seconds."""
        self._adopt(keys)
        self._entries[digest] = (owner, expires_at)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def _adopt(self, keys: KeySet) -> None:
        if keys is not self._keys:
            self._entries.clear()
            self._keys = keys


def _sent_credentials(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the headers that hold a credential, as they came."""
    # A look-up by name would show one of several values
    return [(name, value) for name, value in headers.items() if name.lower() in CREDENTIAL_HEADERS]


def _token(sent: Sequence[tuple[str, str]]) -> str:
    """Return the one token that all credentials of a request are. Raises Unauthorized; BadRequest for several."""
    if not sent or len({name.lower() for name, _ in sent}) < len(sent):
        raise _refusal(f"{len(sent)} headers with a credential, or one of them twice")
    tokens = {_token_of(name, value) for name, value in sent}
    if len(tokens) > 1:
        named = " and ".join(f"'{name}'" for name, _ in sent)
        raise BadRequest(
            f"Contradicting credentials: {named} hold different keys. Send one of them.",
            code="conflicting_credentials",
        )
    return tokens.pop()


def _token_of(name: str, value: str) -> str:
    """Return the token that a header holds: behind its scheme in `Authorization`, bare in the others."""
    token = value
    if name.lower() == "authorization":
        scheme, _, rest = value.partition(" ")
        if scheme.lower() != "bearer":
            raise _refusal("not a bearer token")
        token = rest.lstrip(" ")
    if not token:
        raise _refusal("empty token")
    if len(token) > MAX_TOKEN_LENGTH:
        raise _refusal("token too long")
    # Visible ASCII only. Not a regular expression: one took 9 of the 14 us that a known token costs
    if not token.isascii() or not token.isprintable() or " " in token:
        raise _refusal("characters that no token has")
    return token


def _check_dates(claims: Mapping[str, Any]) -> None:
    """Refuse dates that are no numbers (RFC 7519, 2): the library takes text for one, others would not."""
    for name in ("exp", "nbf", "iat"):
        date = claims.get(name, 0)
        if isinstance(date, bool) or not isinstance(date, int | float):
            raise _refusal(f"{name} claim")


def owner_of_claims(claims: Mapping[str, Any]) -> str:
    """Return the owner that a token's claims name, whoever signed it. Raises Unauthorized if they name none."""
    issuer, subject = claims.get("iss", ""), claims.get("sub")
    # A line break in `iss` would let two pairs of issuer and subject share one owner
    if not isinstance(issuer, str) or "\n" in issuer:
        raise _refusal("iss claim")
    if not isinstance(subject, str) or not subject:
        raise _refusal("sub claim")
    return "jwt:" + _sha256(f"{issuer}\n{subject}")


def _names_by_hash(auth: AuthConfig) -> dict[str, str]:
    if not auth.api_keys:
        raise ValueError("auth.api_keys: at least one key is needed")
    names = {digest: name for name, digest in auth.api_keys.items()}
    if len(names) < len(auth.api_keys):
        raise ValueError("auth.api_keys: two names have the same key")
    return names


def _sha256(text: str) -> str:
    # Claims may hold lone surrogates, which strict UTF-8 refuses
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _refusal(reason: str) -> Unauthorized:
    logger.debug("refused: %s", reason)
    return Unauthorized()
