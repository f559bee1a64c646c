"""Responses in the store: read, list what the model was given, delete."""

from __future__ import annotations

from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.envelope import unwrap_all
from storage.items import page_arguments
from storage.records import ItemPage, PageRequest, StoredResponse


class Responses:
    """Responses of any owner; each call names the owner and sees nothing of others. A turn's commit writes them."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def read(self, owner: str, response_id: str) -> StoredResponse:
        """Return a stored response. Raises ResponseNotFound."""
        keys = self._keyspace.keys(response_id)
        call = Call("read_response", [keys.head, keys.response(response_id)], [owner], response_id)
        body, output = await self._scripts.run(call)
        return StoredResponse(body, unwrap_all(output))

    async def list_input(self, owner: str, response_id: str, page: PageRequest) -> ItemPage:
        """Return a page of what the model was given for a response: its history, then its own input.

        Raises ResponseNotFound, CursorNotFound.
        """
        keys = self._keyspace.keys(response_id)
        arguments: list[Argument] = [owner, "response", response_id, "", *page_arguments(page), ""]
        call = Call("list_items", [*keys.common, keys.response(response_id)], arguments, response_id)
        more, items = await self._scripts.run(call)
        return ItemPage(unwrap_all(items), bool(more))

    async def delete(self, owner: str, response_id: str) -> None:
        """Forget a response; what descends from it keeps its snapshot. Raises ResponseNotFound."""
        keys = self._keyspace.keys(response_id)
        names = [*keys.common, keys.response(response_id), keys.events(response_id)]
        call = Call("delete_response", names, [owner], response_id)
        await self._scripts.run(call)
