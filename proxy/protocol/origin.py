"""Answer origin: what of a model server's answer depends on which of several servers gave it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SEAL = "encrypted_content"


@dataclass(frozen=True, slots=True)
class AnswerOrigin:
    """What an answer is told with.

    model: what the client calls the model, where its server calls it something else, '' where it does not. mark: stands
    before what the server sealed (`protocol.seals`), '' where there is one server only.
    """

    model: str = ""
    mark: str = ""

    def claim_event(self, event: dict[str, Any]) -> None:
        """Let an event say it, in place."""
        if isinstance(response := event.get("response"), dict):
            self.claim(response)
        if self.mark:
            for name in ("item", "part"):
                if isinstance(value := event.get(name), dict):
                    self._mark_item(value)

    def claim(self, response: dict[str, Any]) -> None:
        """Let a Response object say it, in place."""
        if self.model and "model" in response:
            response["model"] = self.model
        output = response.get("output")
        if self.mark and isinstance(output, list):
            for item in output:
                if isinstance(item, dict):
                    self._mark_item(item)

    def _mark_item(self, item: dict[str, Any]) -> None:
        sealed = item.get(_SEAL)
        if isinstance(sealed, str) and sealed:
            item[_SEAL] = self.mark + sealed
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                self._mark_item(part)
