"""Idempotency keys: who carries out what a key stands for, and what the answer was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.errors import StoreError

#: In the place of the holder that is put aside: whatever is there.
ANYBODY = "*"


class KeyState(StrEnum):
    """How a key stands."""

    MINE = "mine"  #: held by this request
    FREE = "free"  #: nobody has it
    REUSED = "reused"  #: it stands for another request
    RUNNING = "running"  #: another request carries it out
    LAPSED = "lapsed"  #: so it was, and its holder is gone
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it went out. body: None if it was too large to be kept. response_id: '' if it made none."""

    status: int
    content_type: str
    body: bytes | None
    response_id: str = ""


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A held key. name: 64 hex digits that stand for it. token: of the request that holds it."""

    owner: str
    name: str
    token: str


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """How a key was found. holder, response_id: of a lapsed one; response_id is '' if none was noted."""

    state: KeyState
    answer: KeptAnswer | None = None
    holder: str = ""
    response_id: str = ""


class Idempotency:
    """The keys of any owner; they live beside the owner's listings, one hash each, and always expire."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def claim(
        self, claim: KeyClaim, fingerprint: str, lease_seconds: float, retention_seconds: int, *, aside: str = ""
    ) -> KeyStanding:
        """Take a key that is free, or whose lapsed holder is `aside`; return how it stands then.

        fingerprint: of the request; the key stands for it from now on. retention_seconds: from now, and again from
        the answer. aside: ANYBODY takes the key whoever has it. Raises Unavailable.
        """
        arguments: list[Argument] = [fingerprint, claim.token, int(lease_seconds * 1000), retention_seconds, aside]
        return _read_standing(await self._scripts.run(Call("claim_key", [self._key(claim)], arguments)))

    async def look(self, claim: KeyClaim, fingerprint: str) -> KeyStanding:
        """Return how a key stands, and change nothing. Raises Unavailable."""
        call = Call("claim_key", [self._key(claim)], [fingerprint, claim.token, 0, 0, ""])
        return _read_standing(await self._scripts.run(call))

    async def note(self, claim: KeyClaim, response_id: str, lease_seconds: float) -> bool:
        """Note which response the request makes; return whether the key is still held. Raises Unavailable."""
        (held,) = await self._scripts.run(self._keep_call(claim, response_id, lease_seconds))
        return bool(held)

    async def renew(self, claims: Sequence[KeyClaim], lease_seconds: float) -> None:
        """Renew held keys, all in one round trip. Raises Unavailable."""
        for reply in await self._scripts.run_all([self._keep_call(claim, "", lease_seconds) for claim in claims]):
            if isinstance(reply, StoreError):
                raise reply

    async def answer(self, claim: KeyClaim, answer: KeptAnswer, retention_seconds: int) -> None:
        """Write down the answer of the request that holds the key, if it still does. Raises Unavailable."""
        kept = int(answer.body is not None)
        arguments: list[Argument] = [claim.token, retention_seconds, answer.status, answer.content_type]
        arguments += [answer.response_id, kept, answer.body or b""]
        call = Call("answer_key", [self._key(claim)], arguments)
        await self._scripts.run(call)

    async def free(self, claim: KeyClaim) -> None:
        """Forget a key that this token holds; with token '' one that is answered. Raises Unavailable."""
        await self._scripts.run(Call("free_key", [self._key(claim)], [claim.token]))

    def _key(self, claim: KeyClaim) -> str:
        return self._keyspace.owner(claim.owner).idempotency(claim.name)

    def _keep_call(self, claim: KeyClaim, response_id: str, lease_seconds: float) -> Call:
        return Call("keep_key", [self._key(claim)], [claim.token, int(lease_seconds * 1000), response_id])


def _read_standing(reply: Sequence[Any]) -> KeyStanding:
    state = KeyState(reply[0].decode())
    if state is KeyState.LAPSED:
        return KeyStanding(state, holder=reply[1].decode(), response_id=reply[2].decode())
    if state is KeyState.ANSWERED:
        status, content_type, response_id, kept, body = reply[1:]
        answer = KeptAnswer(int(status), content_type.decode(), body if kept else None, response_id.decode())
        return KeyStanding(state, answer)
    return KeyStanding(state)
