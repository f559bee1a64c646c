"""Failover: the servers that one question may go to, one after the other, each once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy.protocol.items import item_id_of
from proxy.protocol.notes import read_note
from proxy.protocol.seals import sealed_by
from proxy.sealing import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.context.model_request import ModelRequest
    from proxy.relay import Outcome
    from proxy.upstream.choice import Upstreams
    from proxy.upstream.client import Upstream

#: Messages, calls of functions and their outputs are never sealed, and are most of what there is.
_NEVER_SEALED = (b'"type":"message"', b'"type":"function_call')
#: Within these a stored item has its id and its type.
_HEAD_BYTES = 100
_OURS = b'"encrypted_content":"' + PREFIX.encode()


class AnswerEnd(NamedTuple):
    """How an answer ended. error: of the Response, None if it did not fail. reason: the same as the server said it.

    fault: what ended it, '' if it ended itself. is_told: the client knows something of what the model said.
    """

    error: Mapping[str, Any] | None
    reason: Any = None
    fault: str = ""
    is_told: bool = False

    @classmethod
    def of(cls, outcome: Outcome, fault: str, *, is_told: bool = False) -> AnswerEnd:
        """Return the end of an answer that came to an outcome."""
        return cls(outcome.response["error"], outcome.reason, fault, is_told)


class Route:
    """Where one question goes: the servers of its model in order, those in bad standing last.

    first: who is asked before the others, if it is one of them.
    """

    def __init__(self, model: str, servers: Sequence[Upstream], first: Upstream | None = None) -> None:
        self.model = model
        if len(servers) > 1:
            servers = sorted(servers, key=lambda server: (not server.standing.is_good, server is not first))
        self._servers = servers
        self._place = 0
        #: Which one is asked now.
        self.server = servers[0]

    def advance(self) -> bool:
        """Turn to the next one; return whether there is one."""
        if self._place + 1 == len(self._servers):
            return False
        self._place += 1
        self.server = self._servers[self._place]
        return True


def newest_sealer(asked: ModelRequest, upstreams: Upstreams) -> Upstream | None:
    """Return the server that sealed the newest sealed item of a question, None if there is none, or nobody knows it."""
    opened = asked.opened
    for items in (asked.turn_input.items, opened.items):
        for item in reversed(items):
            head = item[:_HEAD_BYTES]
            if any(kind in head for kind in _NEVER_SEALED) or (name := sealed_by(item)) is None or _OURS in item:
                continue
            return upstreams.sealer(name, read_note(opened.notes.get(item_id_of(item), "")).maker)
    return None
