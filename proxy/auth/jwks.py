"""JSON Web Keys that tokens are verified with: a shared secret, a PEM file, or a key set behind a URL.

Only the configured algorithms count, and each key verifies only those that fit its type (RFC 8725, 3.1 and
3.2). What a token says about its algorithm selects among them and adds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proxy.protocol.errors import ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from proxy.config.settings import JwtConfig

logger = logging.getLogger(__name__)

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

#: Algorithm → least length of its secret, in bytes: that of the hash (RFC 7518, 3.2).
SYMMETRIC = {"HS256": 32, "HS384": 48, "HS512": 64}
#: Algorithm → the curve that its keys must be on (RFC 7518, 3.4).
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ASYMMETRIC = RSA | CURVES.keys() | {"EdDSA"}

#: Least size of an RSA key, in bits (RFC 7518, 3.3).
RSA_MIN_BITS = 2048
#: Largest key set that is read, in bytes.
MAX_KEY_SET_BYTES = 1024 * 1024
#: Seconds that one fetch may take.
FETCH_TIMEOUT_SECONDS = 10.0
#: Seconds between two fetches that unknown key ids cause.
UNKNOWN_KID_PAUSE_SECONDS = 10.0
#: Seconds after a failed fetch before the next, with old keys to go on with, and without.
FAILURE_PAUSE_SECONDS = 10.0
FIRST_FAILURE_PAUSE_SECONDS = 1.0

# Private members are left out, so that a key set that leaks them still gives public keys only
_PUBLIC_MEMBERS = ("kty", "n", "e", "crv", "x", "y")


class KeySetError(ValueError):
    """A fetched key set is not usable; the message is safe to log."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, and those of the configured algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    material: PublicKey | bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys that are in force together. `by_kid`: whether a token's key id selects among them."""

    keys: tuple[VerificationKey, ...]
    by_kid: bool = True

    def matching(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys with that id; without an id the only key, and none where there are several."""
        if kid is None or not self.by_kid:
            return self.keys if len(self.keys) == 1 else ()
        return tuple(key for key in self.keys if key.kid == kid)


class KeySource(Protocol):
    """Where the keys in force come from."""

    async def current(self) -> KeySet:
        """Return the keys in force; the same object as before while they have not changed."""

    async def renewed(self) -> KeySet:
        """Return the keys in force after another look for a key id that `current` does not have."""


class FixedKeys:
    """Keys that stay as they are while the process runs."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    async def current(self) -> KeySet:
        """Return the keys."""
        return self._keys

    async def renewed(self) -> KeySet:
        """Return the keys."""
        return self._keys


class RemoteKeys:
    """A key set behind a URL: fetched when first needed and again when older than `ttl_seconds`.

    Requests share one fetch at a time. A fetch that fails leaves the old keys in force, and while the
    endpoint stays down requests no longer wait for the next attempt. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        algorithms: Iterable[str],
        ttl_seconds: float,
        timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._ttl_seconds = ttl_seconds
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._clock = clock
        self._keys: KeySet | None = None
        self._failing = False
        self._due = -math.inf
        self._unknown_kid_due = -math.inf
        self._flight: asyncio.Task[None] | None = None

    async def current(self) -> KeySet:
        """Return the keys in force, fetched first when due. Raises ServiceUnavailable when there are none."""
        if self._clock() >= self._due:
            flight = self._started()
            if self._keys is None or not self._failing:
                # Shielded: a caller that leaves must not take the fetch away from those that wait with it
                await asyncio.shield(flight)
        return self._in_force()

    async def renewed(self) -> KeySet:
        """Return the keys in force after another fetch; at most one in UNKNOWN_KID_PAUSE_SECONDS is made.

        Raises ServiceUnavailable when there are no keys.
        """
        flight = self._flight
        if flight is None and self._clock() >= self._unknown_kid_due:
            self._unknown_kid_due = self._clock() + UNKNOWN_KID_PAUSE_SECONDS
            flight = self._started()
        if flight is not None:
            await asyncio.shield(flight)
        return self._in_force()

    def _in_force(self) -> KeySet:
        if self._keys is None:
            raise ServiceUnavailable("The keys that tokens are verified with can't be fetched at the moment.")
        return self._keys

    def _started(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._flight = asyncio.create_task(self._refresh())
        return self._flight

    async def _refresh(self) -> None:
        try:
            keys = parse_key_set(await self._fetch(), self._algorithms)
        except (aiohttp.ClientError, TimeoutError, KeySetError) as exc:
            # The texts of aiohttp's exceptions hold the URL, which may hold a credential
            reason = str(exc) if isinstance(exc, KeySetError) else type(exc).__name__
            logger.warning("auth.jwt.jwks_url: key set not refreshed: %s", reason)
            self._failing = True
            pause = FIRST_FAILURE_PAUSE_SECONDS if self._keys is None else FAILURE_PAUSE_SECONDS
            self._due = self._clock() + pause
        else:
            self._failing = False
            self._due = self._clock() + self._ttl_seconds
            if keys != self._keys:
                logger.info("auth.jwt.jwks_url: %d keys in force", len(keys.keys))
                self._keys = keys
        finally:
            self._flight = None

    async def _fetch(self) -> bytes:
        # The session may be one that does not decompress
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self._session.get(
            self._url, headers=headers, allow_redirects=False, timeout=self._timeout
        ) as response:
            if response.status != 200:
                raise KeySetError(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_KEY_SET_BYTES:
                    raise KeySetError(f"more than {MAX_KEY_SET_BYTES} bytes")
            return bytes(body)


def create_key_source(
    config: JwtConfig, session: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic
) -> KeySource:
    """Return the keys that `config` names; a PEM file is read now, a key set when first needed.

    Raises ValueError, with a message that names the configuration key.
    """
    symmetric = _check_algorithms(config.algorithms)
    source = _only_source(config)
    if symmetric != (source == "secret"):
        needed = "auth.jwt.secret" if symmetric else "auth.jwt.key_file or auth.jwt.jwks_url"
        raise ValueError(f"auth.jwt.algorithms: {config.algorithms[0]} needs {needed}")
    if source == "secret":
        return FixedKeys(_secret_key(config))
    if source == "key_file":
        return FixedKeys(_file_key(config))
    _check_url(config.jwks_url)
    return RemoteKeys(
        session,
        config.jwks_url,
        algorithms=config.algorithms,
        ttl_seconds=config.jwks_ttl_seconds,
        clock=clock,
    )


def parse_key_set(body: bytes, algorithms: Iterable[str]) -> KeySet:
    """Return the keys of a JSON Web Key Set (RFC 7517) that verify signatures by one of `algorithms`.

    Keys that can't be loaded, have another use, are symmetric or fit no algorithm are skipped (RFC 7517, 5).
    Raises KeySetError when the body is no key set or none of its keys is usable.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise KeySetError("not JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise KeySetError("no list of keys")
    keys = [_load_jwk(jwk, algorithms) for jwk in members if isinstance(jwk, dict)]
    usable = tuple(key for key in keys if key is not None)
    if not usable:
        raise KeySetError("no key that fits auth.jwt.algorithms")
    return KeySet(usable)


def fits(algorithm: str, key: object) -> bool:
    """Tell whether `key` is a public key of the type, curve and least size that `algorithm` needs."""
    match key:
        case RSAPublicKey():
            return algorithm in RSA and key.key_size >= RSA_MIN_BITS
        case EllipticCurvePublicKey():
            return CURVES.get(algorithm) == key.curve.name
        case Ed25519PublicKey() | Ed448PublicKey():
            return algorithm == "EdDSA"
        case _:
            return False


def _load_jwk(jwk: Mapping[str, Any], algorithms: Iterable[str]) -> VerificationKey | None:
    kid = jwk.get("kid")
    if not isinstance(kid, str | None) or not _is_for_signatures(jwk):
        return None
    stated = jwk.get("alg")
    try:
        # Not PyJWKSet: one key whose `alg` is `none` or not a string fails the whole set there
        public = {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}
        # Left to itself PyJWK refuses Ed448
        key = jwt.PyJWK(public, "EdDSA" if jwk["kty"] == "OKP" else None).key
    except (jwt.PyJWTError, UnsupportedAlgorithm):
        return None
    fitting = frozenset(name for name in algorithms if stated in (None, name) and fits(name, key))
    return VerificationKey(kid, fitting, key) if fitting else None


def _is_for_signatures(jwk: Mapping[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("kty") in ("RSA", "EC", "OKP")
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _check_algorithms(algorithms: Sequence[str]) -> bool:
    """Tell whether the algorithms are symmetric. Raises ValueError when they are none, unknown or mixed."""
    if not algorithms:
        raise ValueError("auth.jwt.algorithms: at least one is needed")
    unknown = [name for name in algorithms if name not in SYMMETRIC and name not in ASYMMETRIC]
    if unknown:
        raise ValueError(f"auth.jwt.algorithms: {unknown[0]!r} is not supported")
    symmetric = [name in SYMMETRIC for name in algorithms]
    if any(symmetric) and not all(symmetric):
        raise ValueError("auth.jwt.algorithms: HS* can't be mixed with algorithms that use public keys")
    return all(symmetric)


def _only_source(config: JwtConfig) -> str:
    candidates = {"secret": config.secret, "key_file": config.key_file, "jwks_url": config.jwks_url}
    found = [name for name, value in candidates.items() if value]
    if len(found) != 1:
        have = " and ".join(found) or "none"
        raise ValueError(f"auth.jwt: exactly one of secret, key_file and jwks_url must be set, not {have}")
    return found[0]


def _secret_key(config: JwtConfig) -> KeySet:
    material = config.secret.encode()
    needed = max(SYMMETRIC[name] for name in config.algorithms)
    if len(material) < needed:
        raise ValueError(f"auth.jwt.secret: {'/'.join(config.algorithms)} needs at least {needed} bytes")
    try:
        jwt.get_algorithm_by_name(config.algorithms[0]).prepare_key(material)
    except jwt.InvalidKeyError:
        raise ValueError("auth.jwt.secret: this is a public key or a JSON Web Key, not a secret") from None
    return KeySet((VerificationKey(None, frozenset(config.algorithms), material),), by_kid=False)


def _file_key(config: JwtConfig) -> KeySet:
    try:
        key = load_pem_public_key(Path(config.key_file).read_bytes())
    except OSError as exc:
        raise ValueError(f"auth.jwt.key_file: {exc.strerror}") from exc
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("auth.jwt.key_file: no public key in PEM form") from None
    unfit = [name for name in config.algorithms if not fits(name, key)]
    if unfit:
        raise ValueError(f"auth.jwt.algorithms: {unfit[0]} does not fit the type or size of auth.jwt.key_file's key")
    material = cast("PublicKey", key)
    return KeySet((VerificationKey(None, frozenset(config.algorithms), material),), by_kid=False)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("auth.jwt.jwks_url: an http or https URL is needed")
