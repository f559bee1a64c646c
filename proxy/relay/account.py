"""Account: what the upstream said of its response, without output and error, and the client's Response made of it."""

from __future__ import annotations

from typing import Any

from proxy.protocol.response import Ownership, complete_response, complete_settings, same_settings
from proxy.relay.item import merged


class ResponseAccount:
    """One response's."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._told: dict[str, Any] = {}
        #: The completed settings, made anew only when the upstream says something else: most say the same thrice.
        self._settings: dict[str, Any] | None = None
        #: The Response as it was begun, by its status, until the upstream says something else.
        self._begun: dict[str, dict[str, Any]] = {}

    def remember(self, response: dict[str, Any], *, keeps_time: bool) -> None:
        """Take what the upstream says now. keeps_time: the client has seen when the response was made."""
        told = dict(response)
        told.pop("output", None)
        told.pop("error", None)
        if keeps_time:
            told.pop("created_at", None)
            if "created_at" in self._told:
                told["created_at"] = self._told["created_at"]
        if told == self._told:
            return
        told = merged(self._told, told) if self._told else told
        if told == self._told:
            return
        if self._settings is not None and not same_settings(told, self._told):
            self._settings = None
        self._told = told
        self._begun.clear()

    def start_over(self) -> None:
        """Forget all but when the response was made."""
        self._settings = None
        self._told = {name: value for name, value in self._told.items() if name == "created_at"}
        self._begun.clear()

    def begin(self, status: str) -> dict[str, Any]:
        """Return the Response that has begun, not to be changed; its time is kept from now on."""
        begun = self._begun.get(status)
        if begun is None:
            begun = self._begun[status] = self.complete(status, [])
            self._told["created_at"] = begun["created_at"]
        return begun

    def complete(
        self, status: str, output: list[dict[str, Any]], error: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the whole Response object for the client, see `complete_response`."""
        if self._settings is None:
            self._settings = complete_settings(self._told, self._ownership.request)
        return complete_response(self._told, self._ownership, status, output, error, self._settings)
