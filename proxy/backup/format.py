"""A conversation as JSON Lines: the format, written and read a line at a time. Pure.

    conversation   one line: the format's version, the conversation's facts
    branch         each with its chain of spans `[segment, from, to]`
    append         where a segment ended after each append, and the response that made it
    item           every item once: the segments in order, each from offset 0 on; null where one was deleted
    end            how many there were of each

A file as a whole is checked by `proxy.backup.verifier`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import orjson

from proxy.protocol.calls import mark_of
from proxy.protocol.errors import ApiError
from proxy.protocol.ids import is_valid
from proxy.protocol.items import dump
from storage import (
    ArchivedAppend,
    ArchivedBranch,
    ArchivedItem,
    ArchivedResponse,
    CallMark,
    CallSign,
    Chain,
    Export,
)

VERSION = 1

Number = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Offset = Annotated[int, msgspec.Meta(ge=0, lt=2**30)]
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
ConversationId = Annotated[str, msgspec.Meta(pattern=r"^conv[A-Za-z0-9_-]{0,60}\Z")]
BranchName = Annotated[str, msgspec.Meta(pattern=r"^(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}\Z")]
CallKey = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}\Z")]
Spans: TypeAlias = list[tuple[Number, Offset, Offset]]


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all lines."""


class ConversationLine(Line, frozen=True, tag="conversation"):
    """The first line. owner: only in files that the command line writes; times as the store has them (s, ms)."""

    version: Literal[1]
    id: ConversationId
    created_at: Number
    updated_at: Number
    active_branch: BranchName
    title: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    project_id: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    referrer: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    metadata: dict[str, Any] = {}
    owner: str | None = None


class BranchLine(Line, frozen=True, tag="branch"):
    """A branch; see `storage.ArchivedBranch`."""

    name: BranchName
    line: Number
    chain: Spans
    pending: list[CallKey]
    created_at: Number
    updated_at: Number
    parent: Number | None = None
    forked_at: Number | None = None
    forked_from: Id | None = None
    description: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    mixed: bool = False


class ResponsePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The response of an append; body: the Response object without `output`."""

    status: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    body: dict[str, Any]
    snapshot: Spans
    context: Spans
    output: Spans
    pending: list[CallKey]
    created_at: Number


class AppendLine(Line, frozen=True, tag="append"):
    """An append; see `storage.ArchivedAppend`."""

    segment: Number
    end: Offset
    id: Id | None
    model: str
    pending: list[CallKey]
    response: ResponsePart | None


class ItemLine(Line, frozen=True, tag="item"):
    """An item where it lies. mark: a call mark in its stored form."""

    segment: Number
    offset: Offset
    item: dict[str, Any] | None
    mark: str | None = None


class EndLine(Line, frozen=True, tag="end"):
    """The last line: how many lines there were of each kind."""

    branches: Number
    appends: Number
    items: Number


AnyLine: TypeAlias = ConversationLine | BranchLine | AppendLine | ItemLine | EndLine

_FACTS = ("id", "created_at", "updated_at", "active_branch", "title", "project_id", "referrer", "metadata")


async def write_lines(export: Export, owner: str | None = None) -> AsyncIterator[bytes]:
    """Yield a conversation as JSON Lines, some whole lines at a time. owner: noted in the first line.

    Raises ConversationNotFound when it is deleted meanwhile: then the last line is missing.
    """
    counts = {"branches": len(export.branches), "appends": 0, "items": 0}
    head = {"version": VERSION, **({"owner": owner} if owner else {}), **_fields(export.conversation, _FACTS)}
    yield _dump("conversation", head) + b"".join(map(_write_branch, export.branches))
    async for appends in export.appends():
        counts["appends"] += len(appends)
        yield b"".join(map(_write_append, appends))
    async for items in export.items():
        counts["items"] += len(items)
        yield b"".join(map(_write_item, items))
    yield _dump("end", counts)


def parse_line(text: bytes) -> AnyLine:
    """Return a line; ValueError says what is wrong with it, without quoting it."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError("not valid JSON") from None
    line: AnyLine = msgspec.convert(value, type=AnyLine)
    return line


def to_item(line: ItemLine, segment: int) -> ArchivedItem:
    """Return the item of a line, in the form in which items are stored. segment: its number in the store.

    Raises ValueError for an item without id or type, or nested too deeply.
    """
    item = line.item
    if item is None:
        return ArchivedItem(segment, line.offset, b"")
    item_id, kind = item.get("id"), item.get("type")
    if not isinstance(item_id, str) or not is_valid(item_id):
        raise ValueError("the item has no valid id")
    if not isinstance(kind, str) or not kind:
        raise ValueError("the item has no type")
    mark = mark_of(item)
    optional = CallMark(CallSign.OPTIONAL_CALL, mark.key)
    if mark.sign is CallSign.CALL and line.mark == str(optional):
        # the one thing that the item does not tell: its tool was declared as one that needs no output
        mark = optional
    try:
        return ArchivedItem(segment, line.offset, dump(item), mark, item_id)
    except ApiError as exc:
        raise ValueError("the item is nested too deeply") from exc


def to_append(line: AppendLine, numbers: Mapping[int, int]) -> ArchivedAppend:
    """Return the append of a line. numbers: the store's numbers of the file's segments."""
    response = to_response(line.response, numbers) if line.response else None
    return ArchivedAppend(numbers[line.segment], line.end, line.id, line.model, line.pending, response)


def to_response(part: ResponsePart, numbers: Mapping[int, int]) -> ArchivedResponse:
    """Return the response of an append. numbers: the store's numbers of the file's segments."""
    return ArchivedResponse(
        status=part.status,
        body=orjson.dumps(part.body),
        snapshot=renumber(part.snapshot, numbers),
        context=renumber(part.context, numbers),
        output=renumber(part.output, numbers),
        pending=part.pending,
        created_at=part.created_at,
    )


def to_branch(line: BranchLine, numbers: Mapping[int, int]) -> ArchivedBranch:
    """Return the branch of a line. numbers: the store's numbers of the file's segments."""
    return ArchivedBranch(
        line=numbers[line.line],
        name=line.name,
        chain=renumber(line.chain, numbers),
        pending=line.pending,
        created_at=line.created_at,
        updated_at=line.updated_at,
        # of a branch that was deleted nothing is in the file
        parent=None if line.parent is None else numbers.get(line.parent),
        forked_at=line.forked_at,
        forked_from=line.forked_from,
        description=line.description,
        mixed=line.mixed,
    )


def renumber(chain: Chain, numbers: Mapping[int, int]) -> Chain:
    """Return a chain with the store's numbers of its segments."""
    return [(numbers[segment], start, stop) for segment, start, stop in chain]


def _fields(record: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _dump(kind: str, fields: dict[str, Any]) -> bytes:
    return orjson.dumps({"kind": kind, **fields}, option=orjson.OPT_APPEND_NEWLINE)


def _write_branch(branch: ArchivedBranch) -> bytes:
    return _dump("branch", _fields(branch, BranchLine.__struct_fields__))


def _write_append(append: ArchivedAppend) -> bytes:
    fields = _fields(append, AppendLine.__struct_fields__)
    if append.response is not None:
        response = _fields(append.response, ResponsePart.__struct_fields__)
        fields["response"] = response | {"body": orjson.Fragment(append.response.body)}
    return _dump("append", fields)


def _write_item(item: ArchivedItem) -> bytes:
    fields: dict[str, Any] = {"segment": item.segment, "offset": item.offset, "item": None}
    if item.data:
        fields |= {"mark": None if item.mark is None else str(item.mark), "item": orjson.Fragment(item.data)}
    return _dump("item", fields)
