"""Fields and query parameters that several endpoints share, with OpenAI's limits and error codes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from multidict import MultiMapping

from proxy.protocol.errors import (
    BadRequest,
    invalid_id_characters,
    invalid_id_prefix,
    invalid_type,
    json_type,
    too_long,
    unknown_parameter,
)
from proxy.protocol.ids import MAX_LENGTH, is_valid
from storage import PageRequest

ENCRYPTED_REASONING = "reasoning.encrypted_content"
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
DEFAULT_PAGE = 20
MAX_PAGE = 100
#: The branch that every conversation has; in requests it is understood in any case.
MAIN = "MAIN"

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
#: How near a name must be to one of ours to be told as what was meant (difflib's ratio) …
_NEAR = 0.6
#: … and to be refused where others go on. vLLM's `min_tokens` is 0.8 from `max_tokens`.
_MISSPELT = 0.82
#: Longest part of a name that is said again, in characters.
_SHOWN_NAME = 64
_BRANCH_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}", re.ASCII)


def refuse_unknown(
    names: Iterable[str], known: Collection[str], *, within: str = "", in_query: Collection[str] = ()
) -> None:
    """Raise BadRequest (`unknown_parameter`) for a name that is none of `known`, with the nearest or all of them.

    names: those of an object of ours. within: the object's path, '' for a body. in_query: what the query has instead.
    """
    path = f"{within}." if within else ""
    for name in names:
        if name in known:
            continue
        if name in in_query:
            hint = f"It belongs into the query: '?{name}='."
        elif near := _nearest(name, known, _NEAR):
            hint = f"Did you mean '{path}{near}'?"
        else:
            hint = "Supported are: " + (", ".join(f"'{path}{one}'" for one in sorted(known)) or "none") + "."
        raise unknown_parameter(path + name[:_SHOWN_NAME], hint)


def refuse_misspelt(names: Collection[str], ours: Collection[str], *, in_query: Collection[str] = ()) -> None:
    """Raise BadRequest (`unknown_parameter`) for a name that is nearly one of `ours` that is not among `names`.

    For requests whose other names are not ours to judge. in_query: see `refuse_unknown`.
    """
    absent = [one for one in ours if one not in names]
    for name in names:
        if name in ours:
            continue
        if name in in_query or _nearest(name, absent, _MISSPELT):
            refuse_unknown([name], absent, in_query=in_query)


def _nearest(name: str, known: Iterable[str], least: float) -> str | None:
    """Return the one of `known` that `name` is nearest to, in whatever spelling; None if none is near."""
    spelt = {_plain(one): one for one in known}
    near = get_close_matches(_plain(name[:_SHOWN_NAME]), spelt, n=1, cutoff=least)
    return spelt[near[0]] if near else None


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def read_metadata(value: Any, *, nullable_values: bool = False) -> dict[str, str | None]:
    """Return a metadata object: at most 16 pairs, keys to 64 and values to 512 characters.

    nullable_values: a null value is allowed (an update deletes that key). null and absent give `{}`.
    Raises BadRequest with param `metadata`.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_type("metadata", "an object", json_type(value))
    if len(value) > MAX_METADATA_PAIRS:
        raise BadRequest(
            f"Invalid 'metadata': too many properties. Expected an object with at most {MAX_METADATA_PAIRS} "
            f"properties, but got an object with {len(value)} properties instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, text in value.items():
        if len(key) > MAX_METADATA_KEY:
            raise BadRequest(
                f"Invalid 'metadata': property name too long. Expected at most {MAX_METADATA_KEY} characters, "
                f"but got {len(key)}.",
                param="metadata",
                code="property_name_above_max_length",
            )
        if text is None and nullable_values:
            continue
        if not isinstance(text, str):
            raise BadRequest(
                f"Invalid type for 'metadata.{key}': expected a string, but got {json_type(text)} instead.",
                param="metadata",
                code="invalid_type",
            )
        if len(text) > MAX_METADATA_VALUE:
            raise BadRequest(
                f"Invalid 'metadata.{key}': string too long. Expected a string with maximum length "
                f"{MAX_METADATA_VALUE}, but got a string with length {len(text)} instead.",
                param="metadata",
                code="string_above_max_length",
            )
    return value


def read_text(body: Mapping[str, Any], name: str, limit: int) -> str | None:
    """Return an optional string field of at most `limit` characters; '' counts as null. Raises BadRequest."""
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise invalid_type(name, "a string", json_type(value))
    if len(value) > limit:
        raise too_long(name, limit, len(value))
    return value


def read_page(query: MultiMapping[str], *, limit: int = DEFAULT_PAGE, order: str = "desc") -> PageRequest:
    """Return the page that `limit` (1 to 100), `order` and `after` ask for; `limit` and `order` are the defaults.

    Raises BadRequest.
    """
    order = query.get("order") or order
    if order not in {"asc", "desc"}:
        raise BadRequest(
            f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'.", param="order", code="invalid_value"
        )
    after = query.get("after") or None
    if after and len(after) > MAX_LENGTH * 2:
        raise too_long("after", MAX_LENGTH, len(after))
    return PageRequest(limit=read_limit(query, limit), after=after, ascending=order == "asc")


def read_limit(query: MultiMapping[str], default: int) -> int:
    """Return the query's `limit`, 1 to 100. Raises BadRequest."""
    text = query.get("limit")
    if not text:
        return default
    try:
        limit = int(text)
    except ValueError:
        raise invalid_type("limit", "an integer", "a string") from None
    if limit < 1:
        message = f"Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {limit} instead."
        raise BadRequest(message, param="limit", code="integer_below_min_value")
    if limit > MAX_PAGE:
        message = (
            f"Invalid 'limit': integer above maximum value. Expected a value <= {MAX_PAGE}, but got {limit} instead."
        )
        raise BadRequest(message, param="limit", code="integer_above_max_value")
    return limit


def read_flag(query: MultiMapping[str], name: str) -> bool | None:
    """Return a boolean of the query: `true` or `false` in any case, 1 or 0; None if it is absent or empty.

    Raises BadRequest.
    """
    text = query.get(name)
    if not text:
        return None
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        message = f"Invalid value: '{text[:_SHOWN_NAME]}'. Supported values are: 'true' and 'false'."
        raise BadRequest(message, param=name, code="invalid_value") from None


def asks_encrypted(query: MultiMapping[str]) -> bool:
    """Whether `include[]=…&include[]=…` (the clients' form) or `include=…` asks for encrypted reasoning."""
    return any(ENCRYPTED_REASONING in query.getall(name, ()) for name in ("include[]", "include"))


def includes_encrypted(body: Mapping[str, Any]) -> bool:
    """Whether the `include` of a checked request body asks for encrypted reasoning."""
    return ENCRYPTED_REASONING in (body.get("include") or ())


def check_id(value: str, param: str) -> None:
    """Raise BadRequest unless `value`, from a path, has an id's characters and length."""
    if len(value) > MAX_LENGTH:
        raise too_long(param, MAX_LENGTH, len(value))
    if not is_valid(value):
        raise invalid_id_characters(param, value)


def check_conversation_id(value: str, param: str) -> None:
    """Raise BadRequest unless `value` looks like a conversation's id. param: `conversation` or `conversation_id`."""
    if len(value) > MAX_LENGTH:
        raise too_long(param, MAX_LENGTH, len(value))
    if not value.startswith("conv") or not is_valid(value):
        raise invalid_id_prefix(param, value, "conv")


def check_branch_name(value: str, param: str) -> str:
    """Return `value` as the store names the branch: `main` in any case is `MAIN`.

    A name has 1 to 64 letters, digits, dots, underscores or hyphens, and is not `.` or `..`, which a URL can't
    carry. Raises BadRequest with param `param`.
    """
    if not _BRANCH_NAME.fullmatch(value):
        message = (
            f"Invalid '{param}'. Expected the name of a branch: 1 to 64 letters, digits, dots, underscores or hyphens."
        )
        raise BadRequest(message, param=param, code="invalid_value")
    return MAIN if value.upper() == MAIN else value


def read_branch_name(query: MultiMapping[str]) -> str:
    """Return the branch that the query's `branch` names, '' if it names none. Raises BadRequest."""
    value = query.get("branch")
    return check_branch_name(value, "branch") if value else ""
