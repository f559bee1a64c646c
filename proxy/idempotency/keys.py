"""Idempotency keys that requests of this process hold, renewed together, and the wait for those that others hold."""

from __future__ import annotations

import asyncio
import logging
import secrets
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from aiohttp.web import AppKey, RequestKey

from proxy.protocol.errors import ApiError, InProgress, KeyReused, error_body
from proxy.protocol.store_errors import from_store_error
from proxy.runtime.tasks import Backoff, Tasks
from storage import ANYBODY, KeptAnswer, KeyClaim, KeyState, Store, StoreError, Unavailable

if TYPE_CHECKING:
    from proxy.config.settings import IdempotencyConfig

logger = logging.getLogger(__name__)

#: First and longest pause between two looks at a key that somebody else holds, in seconds.
FIRST_KEY_PAUSE = 0.05
LONGEST_KEY_PAUSE = 0.5
#: Answers are compressed for the store; from this size on, in bytes, in a thread.
THREAD_BYTES = 64 * 1024
#: Refusals that another attempt may well not meet, so no key is kept for them: credentials, time, rate.
_PASSING = frozenset({401, 403, 408, 425, 429})

#: Response id → its answer made anew from the store, None if it was not stored.
Restate: TypeAlias = Callable[[str], Awaitable[KeptAnswer | None]]

#: Idempotency keys that requests hold.
IDEMPOTENCY_KEYS: AppKey[HeldKeys] = AppKey("idempotency_keys")

#: The idempotency key that this request holds. Set on a request that came with a key and is to be carried out.
HELD_KEY: RequestKey[HeldKey] = RequestKey("held_key")


class HeldKey:
    """A key that one request holds until it has an answer, or none.

    left: the client has gone. handed_over: a running turn decides what becomes of the key.
    """

    def __init__(
        self,
        keys: HeldKeys,
        claim: KeyClaim,
        retention_seconds: float,
        before: Callable[[], Awaitable[KeptAnswer | None]] | None = None,
    ) -> None:
        self._keys = keys
        self._claim = claim
        self._retention_seconds = retention_seconds
        self._before = before
        self.left = False
        self.handed_over = False

    async def note(self, response_id: str) -> None:
        """Note which response the request makes, before it can be stored. Raises InProgress if the key was lost."""
        if not await self.is_held(response_id):
            raise InProgress("Another request with this key runs by now.")

    async def is_held(self, response_id: str) -> bool:
        """Tell whether the key has not been lost; it stands for that response from now on. Raises Unavailable."""
        return await self._keys.store.idempotency.note(self._claim, response_id, self._keys.lease_seconds)

    async def answer_before(self) -> KeptAnswer | None:
        """Return what the holder that was put aside for this one has stored, if it has by now. Raises Unavailable."""
        return await self._before() if self._before is not None else None

    async def keep(self, answer: KeptAnswer) -> None:
        """Keep the answer for whoever asks again; its body only up to `idempotency.max_answer_bytes`."""
        self._keys.forget(self._claim)
        body = answer.body
        if body is not None:
            body = await _pack(body) if len(body) <= self._keys.config.max_answer_bytes else None
        try:
            await self._keys.store.idempotency.answer(
                self._claim, replace(answer, body=body), round(self._retention_seconds)
            )
        except Unavailable:
            logger.warning("an answer could not be kept under its key: the store can't be reached")

    async def release(self) -> None:
        """Leave the key to the next request: nothing was done."""
        self._keys.forget(self._claim)
        try:
            await self._keys.store.idempotency.free(self._claim)
        except Unavailable:
            logger.warning("an idempotency key is left to its lease: the store can't be reached")

    async def fail(self, error: BaseException, request_id: str, error_format: str) -> None:
        """Keep a refusal that every repeat would meet; leave the key to the next request after any other error."""
        refusal = from_store_error(error) if isinstance(error, StoreError) else error
        if isinstance(refusal, ApiError) and _is_final(refusal):
            body = error_body(refusal, request_id, error_format)
            await self.keep(KeptAnswer(refusal.status, "application/json", body))
        else:
            await self.release()


class HeldKeys:
    """Held keys of this process. lease_seconds: how long a key stays held without renewal."""

    def __init__(self, store: Store, config: IdempotencyConfig, lease_seconds: float) -> None:
        self.store = store
        self.config = config
        self.lease_seconds = lease_seconds
        self._held: set[KeyClaim] = set()

    @asynccontextmanager
    async def renewing(self, tasks: Tasks) -> AsyncIterator[HeldKeys]:
        """Renew what is held for as long as the context lasts."""
        async with tasks.periodic("renewal of idempotency keys", self.lease_seconds / 3, self._renew, logger):
            yield self

    async def take(self, owner: str, name: str, fingerprint: str, restate: Restate) -> HeldKey | KeptAnswer:
        """Return the answer to a key, once there is one, or hold the key: then the request is to be carried out.

        name, fingerprint: hashes of the key and of the request. The answer of a holder that died is made anew, if its
        response was stored. Raises KeyReused, Unavailable; InProgress after `idempotency.wait_seconds`.
        """
        claim = KeyClaim(owner, name, secrets.token_hex(8))
        retention_seconds = self.config.retention_hours * 3600
        backoff = self._backoff()
        holder, restated, before = "", None, None
        while True:
            try:
                standing = await self.store.idempotency.claim(
                    claim, fingerprint, self.lease_seconds, round(retention_seconds), aside=holder
                )
            except asyncio.CancelledError:
                # the key may have been taken for a client that has left: a repeat would wait until its lease is over
                await self._hold(claim, retention_seconds).release()
                raise
            if standing.state is KeyState.REUSED:
                raise KeyReused
            if standing.answer is not None:
                return await _unpack(standing.answer)
            if standing.state is KeyState.MINE:
                held = self._hold(claim, retention_seconds, before)
                if restated is None:
                    return held
                await held.keep(restated)
                return restated
            if standing.state is KeyState.LAPSED:
                holder = standing.holder
                before = partial(restate, standing.response_id) if standing.response_id else None
                restated = await before() if before else None
            else:
                await _pause(backoff)

    async def find(self, owner: str, name: str, restate: Restate) -> tuple[KeptAnswer, KeyClaim] | None:
        """Return the answer that is kept under a name, once it is there, and what to `drop` after it was delivered.

        None if there is none. Raises Unavailable; InProgress after `idempotency.wait_seconds`.
        """
        backoff = self._backoff()
        while True:
            standing = await self.store.idempotency.look(KeyClaim(owner, name, ""), name)
            answer = await _unpack(standing.answer) if standing.answer else None
            if answer is not None and answer.body is not None:
                return answer, KeyClaim(owner, name, "")
            if standing.state is not KeyState.RUNNING:
                response_id = answer.response_id if answer else standing.response_id
                restated = await restate(response_id) if response_id else None
                return (restated, KeyClaim(owner, name, standing.holder)) if restated else None
            await _pause(backoff)

    async def seize(self, owner: str, name: str, retention_seconds: float) -> HeldKey:
        """Hold a name whatever was kept under it. Raises Unavailable."""
        claim = KeyClaim(owner, name, secrets.token_hex(8))
        await self.store.idempotency.claim(claim, name, self.lease_seconds, round(retention_seconds), aside=ANYBODY)
        return self._hold(claim, retention_seconds)

    async def drop(self, claim: KeyClaim) -> None:
        """Forget an answer that `find` gave. Raises Unavailable."""
        await self.store.idempotency.free(claim)

    def forget(self, claim: KeyClaim) -> None:
        """Stop renewing a key."""
        self._held.discard(claim)

    def _hold(
        self,
        claim: KeyClaim,
        retention_seconds: float,
        before: Callable[[], Awaitable[KeptAnswer | None]] | None = None,
    ) -> HeldKey:
        self._held.add(claim)
        return HeldKey(self, claim, retention_seconds, before)

    async def _renew(self) -> None:
        if self._held:
            await self.store.idempotency.renew(list(self._held), self.lease_seconds)

    def _backoff(self) -> Backoff:
        return Backoff(FIRST_KEY_PAUSE, LONGEST_KEY_PAUSE, self.config.wait_seconds, factor=1.5, cut_last=True)


async def _pause(backoff: Backoff) -> None:
    if not await backoff.pause():
        raise InProgress("The first of these requests is still running. Please retry in a few seconds.")


def _is_final(refusal: ApiError) -> bool:
    passing = refusal.status in _PASSING or refusal.code in {"conversation_locked", InProgress.code}
    return refusal.status < 500 and not passing


async def _pack(body: bytes) -> bytes:
    if len(body) < THREAD_BYTES:
        return zlib.compress(body, 1)
    return await asyncio.to_thread(zlib.compress, body, 1)


async def _unpack(answer: KeptAnswer) -> KeptAnswer:
    if answer.body is None:
        return answer
    if len(answer.body) < THREAD_BYTES:
        return replace(answer, body=zlib.decompress(answer.body))
    return replace(answer, body=await asyncio.to_thread(zlib.decompress, answer.body))
