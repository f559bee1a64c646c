"""Intake: a request's body read as a turn, within the limits on what one may bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from proxy.protocol.errors import BadRequest
from proxy.protocol.response import SETTING_NAMES
from proxy.runtime.offload import MANY, beside

if TYPE_CHECKING:
    from proxy.config.settings import Config

Read = TypeVar("Read")


async def take_in(config: Config, body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Read]) -> Read:
    """Return what `read` makes of a turn's body. Raises BadRequest, for more items than `turns.max_input_items` too."""
    given, limit = body.get("input"), config.turns.max_input_items
    count = len(given) if isinstance(given, list) else 1
    if count > limit:
        raise BadRequest(
            f"Invalid 'input': array too long. Expected an array with maximum length {limit}, "
            f"but got an array with length {count} instead.",
            param="input",
            code="array_above_max_length",
        )
    return read(body) if count < MANY else await beside(count, lambda: read(body))


def require_short_settings(config: Config, body: Mapping[str, Any], size: int) -> None:
    """Refuse a turn whose Response would repeat more than `turns.max_settings_bytes` of its request.

    Items are stored in portions, however large; what a Response repeats is one value, which the store takes and gives
    in one step, and nobody else has his turn there meanwhile. size: bytes that the body was read from; only of those
    over the limit is more measured. Raises BadRequest naming the largest.
    """
    limit = config.turns.max_settings_bytes
    if size <= limit:
        return
    sizes = {name: len(orjson.dumps(body[name])) for name in SETTING_NAMES if body.get(name)}
    if (total := sum(sizes.values())) > limit:
        largest = max(sizes, key=sizes.__getitem__)
        raise BadRequest(
            f"Invalid '{largest}': too long. All that a Response repeats of its request may have {limit} bytes "
            f"together, but has {total} bytes instead.",
            param=largest,
            code="settings_too_large",
        )
