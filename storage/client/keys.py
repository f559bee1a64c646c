"""Key names: every key in Redis, built here and nowhere else.

<prefix>:{<partition>}:partition        hash    owner, next_segment, kept, responses, edition, `reach:<segment>`
<prefix>:{<partition>}:conversation     hash    the conversation's facts, metadata as `m:<key>`
<prefix>:{<partition>}:branches         sorted set  branch name → its line
<prefix>:{<partition>}:index            hash    item id → its places; `call:<call id>` → its item
<prefix>:{<partition>}:branch:<line>    hash    name, chain, pending, taken_by, times, parent, …  (named by the scripts)
<prefix>:{<partition>}:segment:<n>      list    items as JSON bytes  (and these too, to the journal)
<prefix>:{<partition>}:holders:<n>      sorted set  line of a branch that reads segment n → how far
<prefix>:{<partition>}:tombstones       sorted set  places of deleted items
<prefix>:{<partition>}:journal          sorted set  appends: response, model, calls that wait
<prefix>:{<partition>}:response:<id>    hash    status, body, snapshot, context, output, pending, created_at;
                                                of one that was accepted before it ran more, see job.lua
<prefix>:{<partition>}:events:<id>      stream  the events of a response, in batches
<prefix>:{<partition>}:lock:<line>      string  token of a turn, with a lease; `lock:=<name>` for a branch to be,
                                                `lock:~<id>` for the log of a response
<prefix>:{<partition>}:stop:<line>      string  the token of a turn that is to end, named as its lock
<prefix>:{<partition>}:watched          string  there while somebody watches the conversation
<prefix>:{<partition>}:commit:<token>   string  marks a commit that leaves no response behind, for two minutes
<prefix>:{<partition>}:pieces:<name>    list    what an item that is large by itself has behind its beginning
<prefix>:{<partition>}:job:<id>         list    what it takes to run a background response, where it is much
<prefix>:{<partition>}:staged:<token>   list    what a large call is about to store, for two minutes
<prefix>:probe:{<tag>}                  string  a moment: what a server is asked whether it takes writes
<prefix>:layout:{layout}                 hash    version of all this, who noted it; `restoring`, `migrating`
<prefix>:jobs:{jobs}                    stream  a ticket for each response that waits for a worker or is being run
<prefix>:jobs:{jobs}:owners             list    owners whose responses wait, in turn
<prefix>:jobs:{jobs}:waiting:<owner>    list    an owner's responses that wait, with the time since when
<prefix>:jobs:{jobs}:drawn              hash    ticket → what a worker has drawn for it
<prefix>:owner:{<owner>}:…              sorted set  conversation ids by last activity, in ms
<prefix>:owner:{<owner>}:responses      sorted set  the latest responses, by when they were accepted or ended, in ms
<prefix>:quota:{<owner>}:requests       string  when all requests of a minute are back, in ms (quotas/count_request)
<prefix>:quota:{<owner>}:turns          sorted set  running turns → until when, in ms; of all owners under `all`
<prefix>:quota:{<owner>}:stored         hash    partition → bytes, and `total`, where they are limited
<prefix>:quota:{<owner>}:ends           sorted set  partitions of those that expire → when, in ms
<prefix>:quota:{<owner>}:charged:<token>  string  marks a change of those as counted
<prefix>:owner:{<owner>}:idempotency:<name>  hash   a key that a client gave its request, and the answer
<prefix>:owner:{<owner>}:digest:<name>  sorted set  what the digest of a history leads to (recognition)
<prefix>:{<partition>}:digests          list    names of the digests that lead to the conversation here
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def queue_key(prefix: str) -> str:
    """Return the key of the queue: one for all partitions, in a slot of its own."""
    return f"{prefix}:jobs:{{jobs}}"


def layout_key(prefix: str) -> str:
    """Return the key that notes how the store is laid out."""
    return f"{prefix}:layout:{{layout}}"


def escape_glob(text: str) -> str:
    """Return the pattern that matches exactly `text`."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def probe_key(prefix: str, tag: str) -> str:
    """Return a key that holds nothing and is gone after a moment, in the slot of a hash tag."""
    return f"{prefix}:probe:{{{tag}}}"


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of the queue: one for all partitions, in a slot of its own."""

    prefix: str

    @property
    def tickets(self) -> str:
        """Stream of tickets."""
        return queue_key(self.prefix)

    @property
    def owners(self) -> str:
        """List of owners in turn."""
        return f"{self.tickets}:owners"

    @property
    def drawn(self) -> str:
        """Hash of what was drawn."""
        return f"{self.tickets}:drawn"

    def waiting(self, owner: str) -> str:
        """List of an owner's jobs."""
        return f"{self.tickets}:waiting:{owner}"


def quota_key(prefix: str, owner: str, name: str) -> str:
    """Return the key of what is counted of an owner."""
    return f"{prefix}:quota:{{{owner}}}:{name}"


@dataclass(slots=True)
class PartitionKeys:
    """The keys of one partition; its name is their hash tag, so all are in one slot."""

    prefix: str
    partition: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{{self.partition}}}:{name}"

    @property
    def head(self) -> str:
        """Hash of the partition itself."""
        return self._key("partition")

    @property
    def conversation(self) -> str:
        """Hash of the conversation."""
        return self._key("conversation")

    @property
    def branches(self) -> str:
        """Sorted set of the branches' names."""
        return self._key("branches")

    @property
    def index(self) -> str:
        """Hash of item places."""
        return self._key("index")

    @property
    def common(self) -> tuple[str, str, str, str]:
        """The four keys that most scripts start with."""
        base = self._key("")
        return f"{base}partition", f"{base}conversation", f"{base}branches", f"{base}index"

    def segment(self, number: int) -> str:
        """List of items."""
        return self._key(f"segment:{number}")

    def response(self, response_id: str) -> str:
        """Hash of one response."""
        return self._key(f"response:{response_id}")

    def events(self, response_id: str) -> str:
        """Log of one response's events."""
        return self._key(f"events:{response_id}")

    def lock(self, name: str) -> str:
        """Lock of one branch, by its line, of a name that is to be a branch's, or of a log."""
        return self._key(f"lock:{name}")

    def stop(self, name: str) -> str:
        """Mark of a turn that is to end, by the name of its lock."""
        return self._key(f"stop:{name}")

    @property
    def watched(self) -> str:
        """Mark of a conversation that is watched."""
        return self._key("watched")

    def commit(self, token: str) -> str:
        """Marker of one commit."""
        return self._key(f"commit:{token}")

    def pieces(self, name: str) -> str:
        """List of what an item has behind its beginning."""
        return self._key(f"pieces:{name}")

    def job(self, response_id: str) -> str:
        """List of what it takes to run a background response, where it is much."""
        return self._key(f"job:{response_id}")

    def staged(self, token: str) -> str:
        """List of what one call is about to store."""
        return self._key(f"staged:{token}")


@dataclass(slots=True)
class OwnerKeys:
    """The listings, idempotency keys and digests of one owner; the owner is their hash tag."""

    prefix: str
    owner: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:owner:{{{self.owner}}}:{name}"

    @property
    def all(self) -> str:
        """What all keys of the owner begin with."""
        return self._key("")

    @property
    def responses(self) -> str:
        """Sorted set of the owner's latest responses."""
        return self._key("responses")

    @property
    def conversations(self) -> str:
        """Sorted set of all the owner's conversations."""
        return self._key("conversations")

    def project(self, project_id: str) -> str:
        """Sorted set of the owner's conversations in one project."""
        return self._key(f"project:{project_id}")

    def referrer(self, referrer: str) -> str:
        """Sorted set of the owner's conversations from one referrer."""
        return self._key(f"referrer:{referrer}")

    def idempotency(self, name: str) -> str:
        """Hash of one idempotency key; name: what stands for it."""
        return self._key(f"idempotency:{name}")

    def digest(self, name: str) -> str:
        """Sorted set of what one digest of a history leads to."""
        return self._key(f"digest:{name}")

    def listings(self, project_id: str | None, referrer: str | None) -> list[str]:
        """Return every listing that a conversation with these facts is in."""
        keys = [self.conversations]
        if project_id:
            keys.append(self.project(project_id))
        if referrer:
            keys.append(self.referrer(referrer))
        return keys
