"""Store: the way in for the rest of Branchline, every subject over one channel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from storage.archive.archive import Archive
from storage.archive.copier import Copier
from storage.archive.restorer import Restorer
from storage.branches import Branches
from storage.client.barrier import Barrier
from storage.client.channel import Channel
from storage.client.connection import (
    connect,
    find_followed,
    open_blocking_channel,
    open_channel,
    open_replicated_channel,
)
from storage.client.followed import Followed
from storage.client.keyspace import Keyspace, Portion
from storage.client.scripts import Scripts, Watcher, translated
from storage.conversations import Conversations
from storage.event_logs import EventLogs
from storage.idempotency import Idempotency
from storage.items import Items
from storage.jobs import Jobs
from storage.maintenance.auditor import Auditor
from storage.maintenance.condition import Condition
from storage.maintenance.layout import Layout
from storage.maintenance.purger import Purger
from storage.maintenance.risks import Risks
from storage.maintenance.sweeper import Sweeper
from storage.quotas import Ledger, Quotas
from storage.recognition.recognition import Recognition
from storage.responses import Responses
from storage.room import Disk
from storage.turns import Turns
from storage.views.watching import Watching

#: Responses of one owner that are listed, the latest.
LISTED_RESPONSES = 1000


@dataclass(frozen=True, slots=True)
class Safeguards:
    """What the store is kept from: losing something, and one owner taking all of it.

    disk: what the server writes to, where that is on this machine. min_replicas: how many must have a write before it
    is told as done. replicas_on_disk: in their append-only files, and the primary in its own.
    most_conversations: of one owner; 0: any number. listed_responses: of one owner, the latest; 0: none.
    portion: the most that one script stores. counts_bytes: whether it is counted what owners have stored.
    most_bytes: of one owner; 0: any number.
    """

    disk: Disk | None = None
    min_replicas: int = 0
    replicas_on_disk: bool = False
    most_conversations: int = 0
    listed_responses: int = LISTED_RESPONSES
    portion: Portion = field(default_factory=Portion)
    counts_bytes: bool = False
    most_bytes: int = 0

    def barrier(self, prefix: str, timeout_seconds: float) -> Barrier:
        """Return what stands behind writes; it leaves the rest of the time of a command to the writes."""
        return Barrier(prefix, self.min_replicas, self.replicas_on_disk, max(1, round(timeout_seconds * 600)))


@dataclass(frozen=True, slots=True)
class Hosting:
    """Where the store's server runs, and what it is kept from.

    replicated: a channel for what has to be with replicas before it is told. followed: what follows the server that all
    channels lead to.
    """

    safeguards: Safeguards = Safeguards()
    replicated: Channel | None = None
    followed: Followed | None = None


class Store:
    """All state, in one Redis or Valkey, by subject: `conversations`, `items`, `branches`, `turns`, `responses`, ….

    `events` are the event logs of responses. `archive`, `copier`, `restorer`, `sweeper`, `purger` and
    `auditor` work on the whole of it. `layout` is how it is laid out.
    `condition` says whether it takes writes, `risks` what may go wrong with its settings.

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
        timeout_seconds: float = 5.0,
        hosting: Hosting | None = None,
    ) -> None:
        self._channel = channel
        self._hosting = hosting = hosting or Hosting()
        self._scripts = scripts = Scripts(channel, conversation_seconds, hosting.replicated)
        safeguards = hosting.safeguards
        keyspace = Keyspace(
            scripts,
            prefix,
            retention_seconds,
            conversation_seconds,
            most_conversations=safeguards.most_conversations,
            listed_responses=safeguards.listed_responses,
            portion=safeguards.portion,
            counts_bytes=safeguards.counts_bytes,
            most_bytes=safeguards.most_bytes,
        )
        #: What the server is called where people read it.
        self.description = ""
        self.condition = Condition(channel, keyspace, hosting.safeguards.disk)
        self.risks = Risks(channel, keyspace, hosting.safeguards.min_replicas)
        self.conversations = Conversations(keyspace)
        self.items = Items(keyspace)
        self.branches = Branches(keyspace)
        self.turns = Turns(keyspace, self.items)
        self.watching = Watching(keyspace)
        self.responses = Responses(keyspace)
        self.events = EventLogs(keyspace)
        self.jobs = Jobs(keyspace, queue, timeout_seconds=timeout_seconds)
        self.idempotency = Idempotency(keyspace)
        self.quotas = Quotas(keyspace)
        self.ledger = Ledger(keyspace)
        self.recognition = Recognition(keyspace)
        self.archive = Archive(keyspace)
        self.copier = Copier(channel, keyspace)
        self.restorer = Restorer(channel, keyspace, self.jobs)
        self.layout = Layout(channel, keyspace)
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
        safeguards: Safeguards | None = None,
    ) -> Store:
        """Return a store on the server at `url`; connections are made when they are needed.

        prefix: put before every key. retention_seconds: how long responses live after their last use.
        conversation_seconds: how long conversations live after their last use, at least as long as responses; 0: for
        ever. Raises ValueError for a URL that can't be used.
        """
        client = connect(url, timeout_seconds=timeout_seconds, max_connections=max_connections)
        followed = find_followed(client)
        replicated, safeguards = None, safeguards or Safeguards()
        if safeguards.min_replicas:
            barrier = safeguards.barrier(prefix, timeout_seconds)
            replicated = open_replicated_channel(client, barrier, timeout_seconds=timeout_seconds, followed=followed)
        return cls(
            open_channel(client, timeout_seconds=timeout_seconds, max_connections=max_connections, followed=followed),
            open_blocking_channel(client, timeout_seconds=timeout_seconds, followed=followed),
            prefix=prefix,
            retention_seconds=retention_seconds,
            conversation_seconds=conversation_seconds,
            timeout_seconds=timeout_seconds,
            hosting=Hosting(safeguards, replicated, followed),
        )

    def watch(self, watcher: Watcher | None) -> None:
        """Have `watcher` told of each call of a script; None: no more."""
        self._scripts.watch(watcher)

    async def follow_primary(self) -> None:
        """Find out about another server that becomes the primary, and leave the old one at once. Raises Unavailable.

        Never returns; where nothing can tell of one it just waits.
        """
        followed = self._hosting.followed
        if followed is None:
            await asyncio.Event().wait()
            return
        with translated():
            await followed.follow()

    async def close(self) -> None:
        """Close every connection."""
        await self.jobs.close()
        if self._hosting.replicated is not None:
            await self._hosting.replicated.close()
        await self._channel.close()
