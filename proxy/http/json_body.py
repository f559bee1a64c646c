"""JSON bodies: read so that others have their turn meanwhile, however large one is or whatever is in it.

small     in one go
large     counted in slices; parsed in one go by the fast parser, after which others have their turn
large, and no strict JSON    in a process of its own: what is repaired by Python takes a hundred times as long
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from proxy.protocol import integers, lenient_json
from proxy.protocol.errors import BadRequest
from proxy.protocol.json_size import SLICE_BYTES, count_elements, estimate, is_deeper, most_levels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.settings import ServerConfig

#: Longest that a process may take to repair a body, in seconds.
REPAIR_SECONDS = 30.0


async def parse_body(body: bytes, limits: ServerConfig, repairing: asyncio.Lock) -> dict[str, Any]:
    """Return the JSON object in a body. repairing: see `BodyBudget`.

    Raises BadRequest (`invalid_json`, `json_too_large`, `json_too_deep`, `invalid_type`).
    """
    if len(body) > 2 * limits.max_json_elements:
        await check_elements(body, limits.max_json_elements)
    if len(body) <= SLICE_BYTES:
        return parse_object(body, limits.max_json_depth)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as refusal:
        async with repairing:
            body = await _repair(body, refusal)
        value = orjson.loads(body)
    await asyncio.sleep(0)
    if integers.has_long(body):
        value = integers.loads_exact(body)
        await asyncio.sleep(0)
    return _checked(value, limits.max_json_depth)


async def _repair(body: bytes, refusal: orjson.JSONDecodeError) -> bytes:
    """Return a body as strict JSON, as far as it can be repaired. Raises BadRequest (`invalid_json`)."""
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    command = (sys.executable, "-m", lenient_json.__name__)
    repairing = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=none)
    repaired = b""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(REPAIR_SECONDS):
                repaired, _ = await repairing.communicate(body)
    finally:
        if repairing.returncode is None:
            repairing.kill()
            await repairing.wait()
    if not repaired:
        raise _not_json(refusal)
    return repaired


async def check_elements(body: bytes, limit: int) -> None:
    """Refuse JSON with more than `limit` values before it is parsed. Others have their turn meanwhile.

    Raises BadRequest (`json_too_large`).
    """
    # an element takes two bytes at least
    if len(body) <= 2 * limit or await _sum(estimate(body), limit) <= limit:
        return
    if await _sum(count_elements(body), limit) > limit:
        message = f"The request body has too many elements: at most {limit} values in objects and arrays."
        raise BadRequest(message, code="json_too_large")


async def _sum(counts: Iterator[int], limit: int) -> int:
    total = 0
    for count in counts:
        total += count
        if total > limit:
            break
        await asyncio.sleep(0)
    return total


def parse_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object in `body`; the last of repeated keys counts.

    What no model server would take (lone surrogates, NaN, bytes that are not UTF-8) is replaced: in a history it would
    be refused with every turn again. max_depth: deepest nesting of arrays and objects. Raises BadRequest; its message
    never quotes the body.
    """
    try:
        value = lenient_json.loads_lenient(body)
    except orjson.JSONDecodeError as refusal:
        raise _not_json(refusal) from None
    if type(value) is dict and most_levels(body) <= max_depth:
        return value
    return _checked(value, max_depth)


def _not_json(refusal: orjson.JSONDecodeError) -> BadRequest:
    place = f"line {refusal.lineno}, column {refusal.colno}"
    return BadRequest(f"The request body is not valid JSON ({place}).", code="invalid_json")


def _checked(value: Any, max_depth: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("The request body must be a JSON object.", code="invalid_type")
    if is_deeper(value, max_depth):
        raise BadRequest(f"The request body is nested too deeply: at most {max_depth} levels.", code="json_too_deep")
    return value
