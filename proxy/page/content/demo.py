"""A conversation that shows what branches are, as a file that can be imported. Pure.

It has tool calls, reasoning, a picture, an edit, a new answer, forks:

    line 0   the first answer, which was made anew     1-2
    line 1   the long way, whose last question         1, 3-…      named as the version that the edit left behind
             was edited
    line 2   MAIN: the edited question, answered
    line 3   budget: forked before that question
    line 4   slow-travel: forked after the second answer
"""

from __future__ import annotations

import base64
import struct
import time
import zlib
from collections.abc import Iterable
from typing import Any

import orjson

from proxy.protocol import ids
from storage import new_partition

MODEL = "demo-model"
TITLE = "A week in Lisbon"

_TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Mean temperatures and rain of a month.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "month": {"type": "integer", "minimum": 1, "maximum": 12}},
        "required": ["city", "month"],
        "additionalProperties": False,
    },
    "strict": True,
}
_SEASONS = """**April to June** is the best time, and **late September** comes close:

| months | days | nights | rain | crowds |
|---|---|---|---|---|
| April-June | 19-26 °C | 12-17 °C | little | moderate |
| July-August | 28-35 °C | 18 °C | none | many |
| September | 26 °C | 17 °C | little | moderate |

In spring the jacarandas bloom around *Largo do Carmo*; hotels cost a third less than in August."""
_WEATHER = """In **May** you can expect about 22 °C by day and 13 °C at night, with five days of rain.

The picture shows *azulejos* as they are around **Largo do Intendente**: a good place to stay.

To compare offers by the night:

```python
def per_night(total: float, nights: int, city_tax: float = 4.0) -> float:
    return round(total / nights + 2 * city_tax, 2)
```"""
_MADRID = """From **Madrid** there is no direct train since 2020. The usual way takes about nine hours:

1. Madrid Atocha → Badajoz, 4 h
2. Badajoz → Entroncamento, 3 h
3. Entroncamento → Lisboa Oriente, 1 h

The night bus takes eight hours and costs half; a flight takes one hour."""
_PORTO = "From **Porto** the *Alfa Pendular* takes 2 h 50 min, ten times a day, from €25."
_BUDGET = """Then I would travel like this:

- **Flights** in the middle of the week: €220 for two
- **Seven nights** in a guesthouse near Intendente: €455
- **Transport**: two *Navegante* cards, €40
- **Food**: lunch menus (*prato do dia*) from €9

That leaves some €45 for museums; most of them are free on Sunday mornings."""


def demo_file(now: float | None = None) -> tuple[str, bytes]:
    """Return the id of a new demo conversation and its file, as `proxy.backup` reads it. now: Unix seconds."""
    demo = _Demo(int(time.time() if now is None else now))
    return demo.id, demo.write()


def tile_png(size: int = 160) -> bytes:
    """Return a picture of tiles as PNG, drawn here so that nothing has to be carried along."""
    rows = []
    for y in range(size):
        row = bytearray([0])
        for x in range(size):
            u, v = abs(x % 40 - 20) / 20, abs(y % 40 - 20) / 20
            ring = (u * u + v * v) ** 0.5
            if 0.42 < ring < 0.58 or abs(u - v) < 0.07 or ring < 0.12:
                row += bytes((24, 74, 150))
            elif u > 0.94 or v > 0.94:
                row += bytes((214, 222, 232))
            elif ring > 1.05:
                row += bytes((236, 179, 64))
            else:
                row += bytes((247, 249, 252))
        rows.append(bytes(row))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


class _Demo:
    """The conversation while it is put together. now: Unix seconds; all of it happened in the hour before."""

    def __init__(self, now: int) -> None:
        self._partition = new_partition()
        self.id = ids.new_conversation_id(self._partition)
        self._start = now - 3600
        self._items: dict[int, list[dict[str, Any]]] = {}
        self._appends: list[dict[str, Any]] = []

    def write(self) -> bytes:
        """Return the file."""
        self._talk()
        branches = [
            self._branch(0, self._earlier(600, "4f2a"), [], 300),
            self._branch(1, self._earlier(1500, "91c7"), [(0, 0, 1)], 1400, parent=0, at=600),
            self._branch(2, "MAIN", [(0, 0, 1), (1, 0, 6)], 2400, parent=1, at=1500),
            self._branch(3, "budget", [(0, 0, 1), (1, 0, 6)], 3000, parent=2, at=2700, text="For at most €900"),
            self._branch(4, "slow-travel", [(0, 0, 1), (1, 0, 2)], 3300, parent=2, at=3200, text="Without a plane"),
        ]
        head = {
            "version": 1, "id": self.id, "created_at": self._start, "updated_at": (self._start + 3300) * 1000,
            "active_branch": "MAIN", "title": TITLE, "project_id": "demo", "referrer": None, "metadata": {},
        }  # fmt: skip
        items = [
            {"segment": segment, "offset": offset, "mark": None, "item": item}
            for segment, found in sorted(self._items.items())
            for offset, item in enumerate(found)
        ]
        counts = {"branches": len(branches), "appends": len(self._appends), "items": len(items)}
        return b"".join(
            [
                _lines("conversation", [head]),
                _lines("branch", branches),
                _lines("append", self._appends),
                _lines("item", items),
                _lines("end", [counts]),
            ]
        )

    def _talk(self) -> None:
        spring = self._user("We have a week for Lisbon, the two of us. When should we go?")
        self._turn(0, [], [spring], [self._says("In spring or in autumn.")], 60, (41, 8))
        self._turn(1, [(0, 0, 1)], [], [self._thinks(), self._says(_SEASONS)], 600, (41, 212), kept=1)
        picture = base64.b64encode(tile_png()).decode()
        asked = self._user("What is the weather like in May? And where are tiles like these?")
        asked["content"].append(
            {"type": "input_image", "image_url": f"data:image/png;base64,{picture}", "detail": "low"}
        )
        before = [(0, 0, 1)]
        call, output = self._weather()
        self._turn(1, before, [asked], [call], 900, (402, 31))
        self._turn(1, before, [output], [self._says(_WEATHER)], 915, (470, 148))
        self._turn(1, before, [self._user("And by train?")], [self._says(_PORTO)], 1400, (640, 34))
        before = [(0, 0, 1), (1, 0, 6)]
        train = self._user("And by train, from Madrid?")
        self._turn(
            2, before, [train], [self._thinks("From Madrid, so over Badajoz."), self._says(_MADRID)], 2400, (652, 131)
        )
        cheap = self._user("How do we stay below €900 in all?")
        self._turn(3, before, [cheap], [self._says(_BUDGET)], 3000, (655, 117))
        slow = self._user("We would rather not fly. How long does it take?")
        said = self._says("From Berlin two days, by Paris and Hendaye; sleep in San Sebastián.")
        self._turn(4, [(0, 0, 1), (1, 0, 2)], [slow], [said], 3300, (280, 19))

    def _turn(
        self,
        segment: int,
        before: list[tuple[int, int, int]],
        asked: list[dict[str, Any]],
        said: list[dict[str, Any]],
        at: int,
        tokens: tuple[int, int],
        kept: int = 0,
    ) -> None:
        """Add a turn to a segment. kept: items of its input that stood there before."""
        place = self._items.setdefault(segment, [])
        start = len(place)
        place += [*asked, *said]
        middle, end = start + len(asked), len(place)
        own = [(segment, 0, end)]
        given = [*before, *([(segment, 0, middle)] if middle else [])]
        response_id = ids.new_response_id(self._partition, stored=True)
        waits = [item["call_id"] for item in said if item["type"] == "function_call"]
        self._appends.append(
            {
                "segment": segment, "end": end, "id": response_id, "model": MODEL, "pending": waits,
                "response": {
                    "status": "completed", "body": self._body(response_id, at, tokens, kept),
                    "snapshot": [*before, *own], "context": given, "output": [(segment, middle, end)],
                    "pending": waits, "created_at": self._start + at,
                },
            }
        )  # fmt: skip

    def _body(self, response_id: str, at: int, tokens: tuple[int, int], kept: int) -> dict[str, Any]:
        begun = self._start + at
        given, made = tokens
        return {
            "id": response_id, "object": "response", "created_at": begun, "status": "completed", "error": None,
            "background": False, "completed_at": begun + 2 + made // 60, "incomplete_details": None,
            "instructions": "You are a travel agent. Be brief, and say what things cost.", "max_output_tokens": None,
            "max_tool_calls": None, "metadata": {}, "model": MODEL, "parallel_tool_calls": True,
            "previous_response_id": None, "reasoning": {"effort": "low", "summary": "auto"}, "service_tier": "default",
            "store": True, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
            "tools": [_TOOL], "top_p": 1.0, "truncation": "disabled", "user": None,
            "conversation": {"id": self.id},
            "usage": {
                "input_tokens": given, "input_tokens_details": {"cached_tokens": given // 2 if given > 200 else 0},
                "output_tokens": made, "output_tokens_details": {"reasoning_tokens": 24 * kept},
                "total_tokens": given + made,
            },
        }  # fmt: skip

    def _branch(
        self, line: int, name: str, before: list[tuple[int, int, int]], used: int, **more: Any
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "name": name, "line": line, "chain": [*before, (line, 0, len(self._items[line]))], "pending": [],
            "created_at": (self._start + more.get("at", 0)) * 1000, "updated_at": (self._start + used) * 1000,
        }  # fmt: skip
        if "parent" in more:
            segment, _, end = before[-1]
            forked_from = self._items[segment][end - 1]["id"]
            fields |= {"parent": more["parent"], "forked_at": self._start + more["at"], "forked_from": forked_from}
        return fields | ({"description": more["text"]} if "text" in more else {})

    def _earlier(self, at: int, suffix: str) -> str:
        return f"MAIN_{time.strftime('%Y%m%d%H%M%S', time.gmtime(self._start + at))}_{suffix}"

    def _user(self, text: str) -> dict[str, Any]:
        return {
            "id": self._item_id("message"), "type": "message", "role": "user", "status": "completed",
            "content": [{"type": "input_text", "text": text}],
        }  # fmt: skip

    def _says(self, text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {
            "id": self._item_id("message"), "type": "message", "role": "assistant", "status": "completed",
            "content": [part],
        }  # fmt: skip

    def _thinks(self, text: str = "Mild days and few crowds: compare the months.") -> dict[str, Any]:
        return {
            "id": self._item_id("reasoning"), "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text}],
        }  # fmt: skip

    def _weather(self) -> tuple[dict[str, Any], dict[str, Any]]:
        call_id = f"call_{self._item_id('function_call').rpartition('_')[2][-24:]}"
        call = {
            "id": self._item_id("function_call"), "type": "function_call", "status": "completed", "call_id": call_id,
            "name": "get_weather", "arguments": '{"city":"Lisbon","month":5}',
        }  # fmt: skip
        output = {
            "id": self._item_id("function_call_output"), "type": "function_call_output", "status": "completed",
            "call_id": call_id, "output": '{"day_c":22,"night_c":13,"rain_days":5,"sun_hours":291}',
        }  # fmt: skip
        return call, output

    def _item_id(self, kind: str) -> str:
        return ids.new_turn_item_id(kind, self._partition, stored=True)


def _lines(kind: str, rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps({"kind": kind, **row}, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
