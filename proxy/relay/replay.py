"""Stored response replay: a response as JSON, as its whole stream, as the end of a stream that nobody ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from proxy.protocol import integers, sse
from proxy.protocol.items import hide_sealed
from proxy.protocol.response import Ownership
from proxy.relay.frames import Frames
from proxy.relay.outcome import CLOSING, Outcome
from proxy.relay.relay import Relay
from storage import TurnSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage import StoredResponse

_BROKEN_OFF = {"code": "server_error", "message": "The server that made this response was stopped before its end."}


@dataclass(frozen=True)
class Replay:
    """A stored response, told again. show_encrypted: leave `encrypted_content` in reasoning items."""

    stored: StoredResponse
    show_encrypted: bool

    @property
    def json(self) -> bytes:
        """The Response object as JSON, put together from what is stored, which is not parsed."""
        return self.stored.body[:-1] + b',"output":[' + b",".join(self._output) + b"]}"

    @cached_property
    def response(self) -> dict[str, Any]:
        """The Response object."""
        return {
            **integers.loads_exact(self.stored.body),
            "output": [integers.loads_exact(item) for item in self._output],
        }

    def stream(self, asked: Mapping[str, Any]) -> bytes:
        """Return the frames of a whole stream; it has other pieces than the first one had, and the same content.

        asked: the request body that made the response, for settings that the response does not repeat.
        """
        response = self.response
        conversation = response.get("conversation") or {}
        branch = conversation.get("branch", "")
        ownership = Ownership.of(
            asked,
            TurnSource(conversation.get("id"), response["previous_response_id"], branch=branch),
            response_id=response["id"],
            created_at=response["created_at"],
            store=response["store"],
            new_item_id=str,
            branch=branch,
        )
        outcome = Outcome(response["status"], response, [])
        relay = Relay(ownership)
        return sse.joined(sse.together([relay.replay(outcome), relay.closing(outcome)]))

    def end(self, sequence_number: int) -> bytes:
        """Return the frames that end a stream of the response. sequence_number: of the first of them."""
        return _end(self.response, sequence_number)

    @property
    def _output(self) -> Sequence[bytes]:
        return self.stored.output if self.show_encrypted else hide_sealed(self.stored.output)


def end_of_broken_run(first_frame: bytes, sequence_number: int) -> bytes:
    """Return the frames that end a stream whose run died and left no response.

    first_frame: the stream's `response.created`; ValueError if it is not one frame. sequence_number: of the first
    frame that is returned.
    """
    (event,) = sse.SseDecoder(len(first_frame)).feed(first_frame)
    response = integers.loads_exact(event.data)["response"]
    return _end({**response, "status": "failed", "error": _BROKEN_OFF}, sequence_number)


def _end(response: dict[str, Any], sequence_number: int) -> bytes:
    frames = Frames(response["id"], sequence_number)
    if sequence_number == 0:
        # the clients' helpers want to see how it began, too
        begun: dict[str, Any] = {
            "status": "in_progress",
            "output": [],
            "error": None,
            "completed_at": None,
            "incomplete_details": None,
        }
        frames.emit({"type": "response.created", "response": {**response, **begun}})
    # nobody is left to finish a response that is not over
    kind = CLOSING.get(response["status"], CLOSING["incomplete"])
    frames.emit({"type": kind, "response": response})
    return sse.joined(frames.take()) + sse.DONE
