"""How the turn's answer ended, and by which events either side tells it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["completed", "incomplete", "failed", "cancelled"]

#: Terminal events. Nobody specifies `response.cancelled`; some servers send it.
TERMINAL: dict[str, Status] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
#: The event that tells an outcome. No client knows a `response.cancelled`.
CLOSING: dict[Status, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.incomplete",
}
#: Seconds that are waited after the end of a response for the end of its stream, or another response in it.
LINGER_SECONDS = 1.0
LINGER_AFTER_CALLS_SECONDS = 10.0


@dataclass(slots=True)
class Outcome:
    """How a turn ended; nobody changes it."""

    status: Status
    #: The complete Response object for the client, output included.
    response: dict[str, Any]
    #: The output items as they are to be stored: our ids, encrypted_content kept.
    items: list[dict[str, Any]]
    #: Why it failed, as the model server said it.
    reason: Any = None
