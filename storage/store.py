"""Store: the way in for the rest of Branchline, every subject over one channel."""

from __future__ import annotations

from storage.archive.archive import Archive
from storage.branches import Branches
from storage.client.channel import Channel
from storage.client.connection import connect, open_blocking_channel, open_channel
from storage.client.keyspace import Keyspace
from storage.client.scripts import CLIENT_ERRORS, Scripts, translate_error
from storage.conversations import Conversations
from storage.event_logs import EventLogs
from storage.idempotency import Idempotency
from storage.items import Items
from storage.jobs import Jobs
from storage.maintenance.auditor import Auditor
from storage.maintenance.purger import Purger
from storage.maintenance.sweeper import Sweeper
from storage.quotas import Quotas
from storage.responses import Responses
from storage.turns import Turns


class Store:
    """All state, in one Redis or Valkey, by subject: `conversations`, `items`, `branches`, `turns`, `responses`, ….

    `events` are the event logs of responses. `archive`, `sweeper`, `purger` and `auditor` work on the whole of it.

    channel, queue: to the same server; queue for what waits there for jobs, at most for timeout_seconds.
    """

    def __init__(
        self,
        channel: Channel,
        queue: Channel,
        *,
        prefix: str,
        retention_seconds: int,
        conversation_seconds: int = 0,
        most_conversations: int = 0,
        timeout_seconds: float = 5.0,
    ) -> None:
        self._channel = channel
        scripts = Scripts(self._channel, conversation_seconds)
        keyspace = Keyspace(scripts, prefix, retention_seconds, conversation_seconds, most_conversations)
        #: What the server is called where people read it.
        self.description = ""
        self.conversations = Conversations(keyspace)
        self.items = Items(keyspace)
        self.branches = Branches(keyspace)
        self.turns = Turns(keyspace, self.items)
        self.responses = Responses(keyspace)
        self.events = EventLogs(keyspace)
        self.jobs = Jobs(keyspace, queue, timeout_seconds=timeout_seconds)
        self.idempotency = Idempotency(keyspace)
        self.quotas = Quotas(keyspace)
        self.archive = Archive(keyspace)
        self.sweeper = Sweeper(self._channel, keyspace)
        self.purger = Purger(self._channel, keyspace)
        self.auditor = Auditor(self._channel, keyspace)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        prefix: str,
        timeout_seconds: float,
        max_connections: int,
        retention_seconds: int,
        conversation_seconds: int = 0,
        most_conversations: int = 0,
    ) -> Store:
        """Return a store on the server at `url`; connections are made when they are needed.

        prefix: put before every key. retention_seconds: how long responses live after their last use.
        conversation_seconds: how long conversations live after their last use, at least as long as responses; 0: for
        ever. most_conversations: of one owner; 0: any number. Raises ValueError for a URL that can't be used.
        """
        client = connect(url, timeout_seconds=timeout_seconds, max_connections=max_connections)
        return cls(
            open_channel(client, timeout_seconds=timeout_seconds, max_connections=max_connections),
            open_blocking_channel(client, timeout_seconds=timeout_seconds),
            prefix=prefix,
            retention_seconds=retention_seconds,
            conversation_seconds=conversation_seconds,
            most_conversations=most_conversations,
            timeout_seconds=timeout_seconds,
        )

    async def ping(self) -> None:
        """Check that the server answers. Raises Unavailable."""
        try:
            (reply,) = await self._channel.exchange([("PING",)])
            if isinstance(reply, Exception):
                raise reply
        except CLIENT_ERRORS as error:
            raise translate_error(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self.jobs.close()
        await self._channel.close()
