"""Chat exchange: a request for a completion and its answer, read as a turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from proxy.chat.answer import ChatLimits, Choice, Completion, response_fields
from proxy.chat.chunks import ChunkReader
from proxy.chat.read import message_items, read_messages
from proxy.protocol import ids
from proxy.protocol.calls import mark_of
from proxy.protocol.content_encoding import SUPPORTED, CodingError, ContentDecoder
from proxy.protocol.errors import ApiError
from proxy.protocol.items import dump, normalise
from proxy.protocol.lenient_json import loads_lenient
from proxy.protocol.notes import Maker, note_of
from proxy.protocol.response import Ownership, complete_response, complete_settings
from proxy.recording.finished import FinishedTurn, RecordedAnswer
from storage import Entry, Origin, TurnSource

if TYPE_CHECKING:
    from proxy.chat.compose import ChatItem

logger = logging.getLogger(__name__)

_PLAIN = frozenset({"", "identity"})
#: Fields of a request for a completion that a Response object repeats.
_SETTINGS = frozenset(
    {
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "temperature",
        "top_p",
        "user",
    }
)


@dataclass(slots=True)
class ChatExchange:
    """A request and its answer, parsed."""

    request: dict[str, Any]
    messages: list[Any]
    completion: Completion

    @classmethod
    def read(cls, asked: tuple[bytes, str], answered: tuple[bytes, str], limit: int) -> ChatExchange | None:
        """Return what was said; None for what can't be read, and for an answer without a message.

        asked, answered: the bodies, each with its Content-Encoding. limit: bytes of each, when undone from that.
        """
        try:
            request = loads_lenient(_decoded(*asked, limit))
            said = _decoded(*answered, limit)
        except (CodingError, orjson.JSONDecodeError) as error:
            logger.debug("a chat completion can't be read: %s", type(error).__name__)
            return None
        messages = request.get("messages") if isinstance(request, dict) else None
        if not isinstance(messages, list) or not messages:
            return None
        reader = ChunkReader(ChatLimits(max_bytes=limit))
        reader.feed(said)
        completion = reader.finish()
        if not completion.choices:
            logger.debug("a chat completion says nothing that can be recorded: %s", completion.problem)
            return None
        return cls(request, messages, completion)

    @property
    def tools(self) -> Any:
        """The tools of the request; of the time before tools its functions."""
        return self.request.get("tools") or self.request.get("functions")

    @property
    def model(self) -> str:
        """The model that was asked for."""
        model = self.request.get("model")
        return model if isinstance(model, str) else ""

    def turn(self, partition: str, upstream: str, *, is_delivered: bool) -> FinishedTurn:
        """Return the exchange as a turn that lives in a partition. upstream: who has answered."""
        maker = Maker(upstream, self.model, self.completion.model)
        first, *others = [self._answer(choice, partition, maker) for choice in self.completion.choices]

        def brings(new: Sequence[int]) -> list[list[Entry]]:
            counts = [len(message_items(self.messages[index])) for index in new]
            entries = iter([_entry(item, partition) for item in read_messages(self.messages, only=new)])
            return [[next(entries) for _ in range(count)] for count in counts]

        return FinishedTurn(first, brings, self.model, is_delivered=is_delivered, others=others)

    def _answer(self, choice: Choice, partition: str, maker: Maker) -> RecordedAnswer:
        response_id = ids.new_response_id(partition, stored=True)
        asked = {name: value for name, value in self.request.items() if name in _SETTINGS}
        ownership = Ownership.of(
            asked, TurnSource(), response_id=response_id, created_at=int(time.time()), store=True, new_item_id=str
        )
        fields = {name: value for name, value in response_fields(self.completion, choice).items() if value is not None}
        response = complete_response(fields, ownership, choice.status, [], None, complete_settings({}, asked))
        del response["output"]
        outputs = [_entry(item, partition, maker) for item in choice.items]
        return RecordedAnswer(response_id, choice.status, orjson.dumps(response), choice.bare_items, outputs)


def _entry(found: ChatItem, partition: str, maker: Maker | None = None) -> Entry:
    """Return an item as the store takes it. maker: of an answer's."""
    item = found.item
    with suppress(ApiError):
        # what is no item of ours is taken down as it came
        item = normalise(item, "messages")
    item_id = ids.new_turn_item_id(item["type"], partition, stored=True)
    data = dump({**item, "id": item_id})
    return Entry(Origin.MINTED, item_id, data, mark_of(item), note_of(item, maker, found.chat))


def _decoded(data: bytes, coding: str, limit: int) -> bytes:
    """Return bytes undone from their coding, as far as they came. Raises CodingError, for what is too long too."""
    if coding in _PLAIN:
        return data
    if coding not in SUPPORTED:
        raise CodingError
    pieces, size = [], 0
    for piece in ContentDecoder(coding).decode(data):
        size += len(piece)
        if size > limit:
            raise CodingError
        pieces.append(piece)
    return b"".join(pieces)
