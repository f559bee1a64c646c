"""Compaction opener: reads the sealed compaction items that were made here, for the owner they were made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from proxy.context.compacted import Compacted, unpack
from proxy.protocol.errors import BadRequest
from proxy.sealing import Unsealable, is_sealed

if TYPE_CHECKING:
    from proxy.protocol.request import TurnRequest
    from proxy.services import Services

#: What compactions are sealed for.
PURPOSE = "compaction"

#: The type of the input item that asks for one.
TRIGGER = "compaction_trigger"


class Opener:
    """Opens the compaction items that one request leads to."""

    def __init__(self, services: Services, owner: str, request: TurnRequest) -> None:
        self._sealer = services.sealer
        self._owner = owner
        self._request = request

    def open(self, encrypted_content: str, item: bytes) -> Compacted | None:
        """Return what an item holds, None if somebody else made it. Raises BadRequest for one that can't be read."""
        if not is_sealed(encrypted_content):
            return None
        try:
            return unpack(self._sealer.open(PURPOSE, self._owner, encrypted_content))
        except (Unsealable, msgspec.MsgspecError) as exc:
            raise self._unreadable(encrypted_content, msgspec.json.decode(item).get("id")) from exc

    def _unreadable(self, encrypted_content: str, item_id: Any) -> BadRequest:
        for item in self._request.items:
            if item.id == item_id or (item.body or {}).get("encrypted_content") == encrypted_content:
                param = f"{item.path}.encrypted_content"
                break
        else:
            param = "conversation" if self._request.source.conversation_id else "previous_response_id"
        return BadRequest(
            f"The encrypted content of the compaction item '{item_id}' could not be verified: it was made for another "
            "caller or with a key that is not in use any more. Remove the item to go on.",
            param=param,
            code="invalid_encrypted_content",
        )
