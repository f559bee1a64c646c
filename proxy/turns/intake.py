"""Intake: a request's body read as a turn, within the limits on what one may bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.protocol.errors import BadRequest
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
