"""Archive: whole conversations exported from the store and imported into it, with their ids."""

from __future__ import annotations

from collections.abc import Sequence

from storage.archive.export import HOLD_SECONDS, Export
from storage.archive.importer import UNFINISHED_SECONDS, Importer
from storage.client.channel import Argument
from storage.client.keyspace import Keyspace
from storage.client.scripts import Call
from storage.conversations import read_facts
from storage.errors import Conflict, StoreError
from storage.quotas import Ledger
from storage.records import Conversation, ImportSource

#: How often an import is begun that another one gets in the way of.
ATTEMPTS = 2


class Archive:
    """Export and import. Except for `identify` and `owner_of`, each call names the owner and sees nothing of others."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._scripts = keyspace.scripts

    async def identify(self, partitions: Sequence[str]) -> list[tuple[str, Conversation]]:
        """Return the conversations that live in partitions, each with its owner. One round trip."""
        keys = [self._keyspace.keys_of(partition) for partition in partitions]
        calls = [Call("identify_conversation", [one.head, one.conversation], []) for one in keys]
        found = []
        for reply in await self._scripts.run_all(calls):
            if isinstance(reply, StoreError):
                raise reply
            owner, facts = reply
            if facts:
                found.append((owner.decode(), read_facts(facts)))
        return found

    async def owner_of(self, some_id: str) -> str:
        """Return whose partition an id leads to, '' if it is nobody's. Raises Unavailable."""
        keys = self._keyspace.keys(some_id)
        owner, _ = await self._scripts.run(Call("identify_conversation", [keys.head, keys.conversation], []))
        return str(owner.decode())

    async def export(self, owner: str, conversation_id: str) -> Export:
        """Begin an export: nothing of it is freed for an hour after each of its calls. Raises ConversationNotFound."""
        keys = self._keyspace.keys(conversation_id)
        arguments: list[Argument] = [owner, conversation_id, HOLD_SECONDS]
        call = Call("export_begin", [keys.head, keys.conversation, keys.branches], arguments, conversation_id)
        return Export(self._keyspace, owner, conversation_id, await self._scripts.run(call))

    async def restore(self, owner: str, source: ImportSource) -> tuple[Conversation, bool]:
        """Write a conversation for `owner`, under the ids that it has; return it, and whether that changed anything.

        One that is there is left as it is. A deleted one comes back. Responses that are there stay as they are.
        Nothing is seen before all is there. An import that broke off can be repeated for a day, then it is gone.
        Raises ConversationExists, QuotaExceeded, BytesExceeded; Conflict when another import of the same conversation
        keeps getting in the way.
        """
        await Ledger(self._keyspace).require(owner)
        for _ in range(ATTEMPTS):
            base, found = await self._begin(owner, source)
            if found is not None:
                return found, False
            try:
                return await Importer(self._keyspace, owner, source, base).run(), True
            except Conflict:
                # another import of this conversation has finished, or has begun anew
                continue
        raise Conflict(source.conversation.id)

    async def _begin(self, owner: str, source: ImportSource) -> tuple[int, Conversation | None]:
        conversation_id = source.conversation.id
        keys = self._keyspace.keys(conversation_id)
        arguments: list[Argument] = [owner, conversation_id, source.fingerprint]
        arguments += [len(source.lengths), UNFINISHED_SECONDS]
        call = Call("import_begin", [keys.head, keys.conversation], arguments, conversation_id)
        base, facts = await self._scripts.run(call)
        if not facts and (reserve := self._keyspace.reserve(owner, conversation_id)) is not None:
            await self._scripts.run(reserve)
        return base, read_facts(facts) if facts else None
