"""Right streams, and the ways in which servers distort them.

    items → each item's events → one order → positions, ids, announcements, indices of parts, where the text stands

`Distortion.is_readable` tells where ids or positions still allow a single reading.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.proxy.relay.streams import body

Event = dict[str, Any]
Item = dict[str, Any]

POSITIONS = ("right", "constant", "missing", "done one too high", "from one")
IDS = ("right", "one for all", "rotating", "missing", "other in the end")
INDICES = ("right", "constant", "missing", "counting", "done one too high")
TEXTS = ("pieces", "in text.done", "in part.done", "in part.added", "in item.done", "in the end", "early too", "again")
ANNOUNCED = ("all", "none", "items", "parts")
ORDERS = ("in turn", "interleaved", "announced first")
ENDS = ("whole", "empty", "none", "other ids", "with an empty message", "told twice")


@dataclass(frozen=True)
class Distortion:
    """One server's ways. seed: of the order and of how texts are cut into pieces."""

    positions: str = "right"
    ids: str = "right"
    indices: str = "right"
    texts: str = "pieces"
    announced: str = "all"
    order: str = "in turn"
    end: str = "whole"
    twice: bool = False
    reasoning_parts: str = "reasoning_text"
    seed: int = 0

    def is_readable(self, items: list[Item]) -> bool:
        """Whether ids, positions or the order allow a single reading of a stream of `items`."""
        streams_nothing = self.texts == "in the end" and self.announced in ("none", "parts")
        if self.texts == "in the end" and self.end in ("empty", "none"):
            return False
        if streams_nothing and self.end == "told twice":
            return False
        by_id = self.ids in ("right", "other in the end")
        by_position = self.positions in ("right", "from one")
        is_announced = self.announced in ("all", "items")
        if self.reasoning_parts == "output_text" and any(
            item["type"] == "reasoning" and item.get("content") for item in items
        ):
            # A part that calls itself text belongs to reasoning only if the reasoning is known to be there.
            is_in_parts = self.texts in ("in part.done", "in part.added", "early too")
            if not is_announced or (is_in_parts and not (by_id or by_position)):
                return False
        if self.order == "in turn":
            return True
        if not is_announced:
            # What shows ids to last is that one comes again before a third of its kind, or whole items.
            kinds = [item["type"] for item in items]
            is_shown = self.texts == "in item.done" or (self.texts == "pieces" and max(map(kinds.count, kinds)) < 3)
            return by_position or (by_id and is_shown)
        return by_id or by_position


def message(name: str, *texts: str) -> Item:
    parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    return {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": "completed", "content": parts}


def reasoning(name: str, container: str, *texts: str) -> Item:
    kind = "summary_text" if container == "summary" else "reasoning_text"
    item: Item = {"type": "reasoning", "id": f"rs_{name}", "summary": []}
    return {**item, container: [{"type": kind, "text": text} for text in texts]}


def call(name: str, arguments: str) -> Item:
    named = {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}", "name": f"look_{name}"}
    return {**named, "arguments": arguments, "status": "completed"}


def custom_call(name: str, text: str) -> Item:
    return {
        "type": "custom_tool_call",
        "id": f"ctc_{name}",
        "call_id": f"cc_{name}",
        "name": f"run_{name}",
        "input": text,
    }


FIELDS = {"function_call": "arguments", "custom_tool_call": "input"}
PREFIXES = {"function_call": "function_call_arguments", "custom_tool_call": "custom_tool_call_input"}


def distorted(items: list[Item], how: Distortion) -> list[Event]:
    """Return a stream of `items` as a server with these ways tells it."""
    rng = random.Random(how.seed)
    streams = [list(_events(item, index, how, rng)) for index, item in enumerate(items)]
    ordered = _ordered(streams, how, rng)
    numbers = itertools.count()
    events = [_renamed(_moved(event, how), how, next(numbers)) for event in ordered]
    created = body("created", response={"id": "resp_up", "status": "in_progress", "model": "m"})
    return [created, *events, body("completed", response=_response(items, how))]


def _events(item: Item, index: int, how: Distortion, rng: random.Random) -> Iterator[Event]:
    place = {"output_index": index, "item_id": item["id"]}
    empty: Item = {field: [] for field in ("content", "summary") if item.get(field)}
    if item["type"] in FIELDS:
        empty = {FIELDS[item["type"]]: ""}
    if how.announced in ("all", "items"):
        status = {"status": "in_progress"} if "status" in item else {}
        yield body("output_item.added", output_index=index, item={**item, **empty, **status})
    if item["type"] in FIELDS:
        field = FIELDS[item["type"]]
        yield from _text(PREFIXES[item["type"]], field, place, item[field], how, rng)
    for container in ("summary", "content"):
        for number, part in enumerate(item.get(container) or ()):
            yield from _part(item["type"], container, place, number, part, how, rng)
    if how.texts == "in the end":
        return
    done = body("output_item.done", output_index=index, item=item)
    yield done
    if how.twice:
        yield done


def _part(
    kind: str, container: str, place: Event, number: int, part: Item, how: Distortion, rng: random.Random
) -> Iterator[Event]:
    name = "reasoning_summary_part" if container == "summary" else "content_part"
    shown = dict(part)
    if kind == "reasoning" and container == "content":
        if how.reasoning_parts == "reasoning_part":
            name = "reasoning_part"
        elif how.reasoning_parts == "output_text":
            shown["type"] = "output_text"
    place = {**place, f"{container}_index": number}
    if how.announced in ("all", "parts"):
        early = part["text"] if how.texts in ("in part.added", "early too") else ""
        yield body(f"{name}.added", **place, part={**shown, "text": early})
    prefix = {"summary": "reasoning_summary_text", "content": "output_text"}[container]
    if kind == "reasoning" and container == "content":
        prefix = "reasoning_text"
    yield from _text(prefix, "text", place, part["text"], how, rng)
    if how.texts not in ("in item.done", "in the end", "in text.done"):
        whole = "" if how.texts == "in part.added" else part["text"]
        yield body(f"{name}.done", **place, part={**shown, "text": whole})


def _text(prefix: str, field: str, place: Event, text: str, how: Distortion, rng: random.Random) -> Iterator[Event]:
    is_field = field != "text"
    if how.texts in ("pieces", "early too", "again") or (is_field and how.texts in ("in part.done", "in part.added")):
        for piece in _pieces(text, rng):
            yield body(f"{prefix}.delta", **place, delta=piece)
        yield {**body(f"{prefix}.done", **place), field: text}
    if how.texts == "in text.done" or how.texts == "again":
        yield {**body(f"{prefix}.done", **place), field: text}


def _pieces(text: str, rng: random.Random) -> list[str]:
    cuts = sorted(rng.sample(range(1, len(text)), k=min(len(text) - 1, rng.randint(0, 4))))
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


def _ordered(streams: list[list[Event]], how: Distortion, rng: random.Random) -> list[Event]:
    if how.order == "in turn":
        return [event for stream in streams for event in stream]
    heads: list[Event] = []
    if how.order == "announced first":
        heads = [stream.pop(0) for stream in streams if stream and stream[0]["type"].endswith("item.added")]
    picks = [number for number, stream in enumerate(streams) for _ in stream]
    rng.shuffle(picks)
    left = [iter(stream) for stream in streams]
    return [*heads, *(next(left[number]) for number in picks)]


def _moved(event: Event, how: Distortion) -> Event:
    event = dict(event)
    is_end = event["type"].endswith(".done")
    match how.positions:
        case "constant":
            event["output_index"] = 0
        case "missing":
            del event["output_index"]
        case "done one too high":
            event["output_index"] += is_end
        case "from one":
            event["output_index"] += 1
    for index in ("content_index", "summary_index"):
        if index in event:
            match how.indices:
                case "constant":
                    event[index] = 0
                case "missing":
                    del event[index]
                case "done one too high":
                    event[index] += is_end
    return event


def _renamed(event: Event, how: Distortion, number: int) -> Event:
    names = {"one for all": "item_0", "rotating": f"item_{number}", "missing": None}
    if how.ids in names:
        if "item_id" in event:
            event["item_id"] = names[how.ids]
        if "item" in event:
            event["item"] = {**event["item"], "id": names[how.ids]}
    elif how.ids == "other in the end" and event["type"].endswith("output_item.done"):
        event["item"] = {**event["item"], "id": f"other_{number // 1000}_{event['item']['id']}"}
    return event


def counted(events: list[Event]) -> list[Event]:
    """Return the stream with a `content_index` that counts the events of an item's text, as older vLLMs do."""
    counts: dict[Any, int] = {}
    result = []
    for event in events:
        place = (event.get("item_id"), event.get("output_index"))
        if event["type"].endswith(("output_text.delta", "reasoning_text.delta")) and "content_index" in event:
            counts[place] = counts.get(place, -1) + 1
            event = {**event, "content_index": counts[place]}
        elif event["type"].endswith(".done") and "content_index" in event:
            event = {**event, "content_index": counts.get(place, 0) + 1}
        result.append(event)
    return result


def _response(items: list[Item], how: Distortion) -> Event:
    response: Event = {"id": "resp_up", "status": "completed", "model": "m"}
    match how.end:
        case "whole":
            response["output"] = items
        case "other ids":
            response["output"] = [{**item, "id": f"final_{n}"} for n, item in enumerate(items)]
        case "empty":
            response["output"] = []
        case "with an empty message":
            response["output"] = [*items, {**message("left", ""), "content": [{"type": "text", "text": ""}]}]
        case "told twice":
            response["output"] = [*items, *({**item, "id": f"again_{n}"} for n, item in enumerate(items))]
    return response


def meaning(items: list[Item]) -> list[tuple[Any, ...]]:
    """Return what items say: their types, texts, and the calls' names and ids."""
    said: list[tuple[Any, ...]] = []
    for item in items:
        if item["type"] in FIELDS:
            said.append((item["type"], item["call_id"], item["name"], item[FIELDS[item["type"]]]))
        else:
            texts = ["".join(p["text"] for p in item.get(where) or ()) for where in ("summary", "content")]
            said.append((item["type"], *texts))
    return said
