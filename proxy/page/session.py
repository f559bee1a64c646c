"""Session: who looks at the page. A header of the request says so, else its cookie, else nobody has to say it.

The cookie is sealed, and holds the owner. Only where callers bring the model server's key along (`passthrough` without
`upstream.api_key`) it holds that too: without it no turn could be begun. `/v1` never looks at cookies.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
from aiohttp.web import AppKey

from proxy.auth.authenticators import upstream_credentials
from proxy.auth.caller import CREDENTIAL_HEADERS, Caller
from proxy.config.values import is_loopback
from proxy.protocol.errors import BadRequest, Unauthorized
from proxy.sealing import Unsealable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.auth.caller import Authenticator
    from proxy.config.settings import Config
    from proxy.sealing import Sealer

#: Seconds that a session lasts.
SESSION_SECONDS = 12 * 3600
#: Longest key that fits into a cookie with the rest, in bytes.
MAX_KEPT_KEY = 2560
#: Longest cookie that is looked at, in characters.
_MAX_COOKIE = 8192

_PURPOSE = "session"

#: Who may look.
DOORKEEPER: AppKey[Doorkeeper] = AppKey("doorkeeper")


class _Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cookie says. digest: of the key, in hex. key: only where it goes to the model server."""

    mode: str
    owner: str
    issued_at: int
    expires_at: int
    digest: str = ""
    key: str = ""


_decode = msgspec.json.Decoder(_Session)


@dataclass(frozen=True, slots=True)
class Pass:
    """A cookie for a browser. text: its value; seconds: for how long it is taken."""

    text: str
    seconds: int


class Doorkeeper:
    """Tells who looks at the page, and makes the cookies that say so."""

    def __init__(self, config: Config, authenticator: Authenticator, sealer: Sealer) -> None:
        self._config = config
        self._authenticator = authenticator
        self._sealer = sealer
        self._credentials = upstream_credentials(config)
        #: Over https only, where the page is reached that way.
        self.is_secure = config.ui.url.lower().startswith("https://")
        #: What the cookie is called.
        self.cookie = "__Secure-branchline_session" if self.is_secure else "branchline_session"

    @property
    def mode(self) -> Literal["passthrough", "jwt", "api_keys", "none"]:
        """How callers prove who they are: `auth.mode`."""
        return self._config.auth.mode

    @property
    def asks(self) -> bool:
        """Whether nothing is shown to somebody who has not signed in."""
        mode = self._config.auth.mode
        return not (mode == "none" or (mode == "passthrough" and is_loopback(self._config.server.host)))

    @property
    def can_check(self) -> bool:
        """Whether a key that nobody has is told from others here, and not only by the model server."""
        return self.mode in {"jwt", "api_keys"}

    async def caller(self, headers: Mapping[str, str], cookie: str | None) -> Caller | None:
        """Return who asks, None for somebody who has to sign in. Raises as Authenticator says."""
        if any(name.lower() in CREDENTIAL_HEADERS for name in headers):
            return await self._authenticator.authenticate(headers)
        if cookie and (caller := self._open(cookie)) is not None:
            return caller
        return None if self.asks else await self._authenticator.authenticate({})

    async def sign_in(self, key: str) -> Pass:
        """Return the cookie of whoever has this key or token. Raises Unauthorized, BadRequest, ServiceUnavailable."""
        key = key.strip()
        if self.mode == "none":
            raise BadRequest("Nobody has to sign in here.")
        caller = await self._authenticator.authenticate({"Authorization": f"Bearer {key}"})
        now = int(time.time())
        # a request may be late by that much, a session need not be
        leeway = self._config.auth.jwt.leeway_seconds if self.mode == "jwt" else 0
        expires_at = int(min(now + SESSION_SECONDS, caller.expires_at - leeway))
        if expires_at <= now:
            raise Unauthorized
        sends_key = self.mode == "passthrough" and not self._credentials
        if sends_key and len(key) > MAX_KEPT_KEY:
            raise BadRequest("This key is too long for a cookie.", param="key")
        session = _Session(
            self.mode,
            caller.owner,
            now,
            expires_at,
            _digest(key) if self.mode == "api_keys" else "",
            key if sends_key else "",
        )
        return Pass(self._sealer.seal(_PURPOSE, "", msgspec.json.encode(session)), expires_at - now)

    def _open(self, cookie: str) -> Caller | None:
        if len(cookie) > _MAX_COOKIE:
            return None
        try:
            session = _decode.decode(self._sealer.open(_PURPOSE, "", cookie))
        except (Unsealable, msgspec.DecodeError):
            return None
        if session.mode != self.mode or not session.issued_at - 60 <= time.time() < session.expires_at:
            return None
        if session.mode == "api_keys" and self._config.auth.api_keys.get(_name_of(session.owner)) != session.digest:
            # the key was taken out of the configuration, or belongs to somebody else now
            return None
        credentials = {"Authorization": f"Bearer {session.key}"} if session.key else self._credentials
        return Caller(session.owner, credentials, session.expires_at)


def _name_of(owner: str) -> str:
    return owner.removeprefix("key:")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
