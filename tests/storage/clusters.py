"""Real clusters for tests that break them: three primaries share the slots, each has a replica."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import key_slot

from storage import new_partition
from tests.storage.servers import run_cluster_node

SLOTS = 16384
#: After so long without an answer a node is taken for dead.
NODE_TIMEOUT_MS = 500


@dataclass
class Node:
    """A node of a cluster, asked directly. port, bus: where clients and other nodes find it; id: its name there."""

    port: int
    bus: int
    client: Redis
    id: str

    def ask(self, *command: Any) -> Any:
        """Return the reply to a command as the server gives it."""
        with self.client.pipeline(transaction=False) as pipeline:
            return pipeline.execute_command(*command, NEVER_DECODE=True).execute()[0]

    def state(self) -> dict[str, Any]:
        """Return what it knows of the cluster and of its replication."""
        text = str(self.ask("CLUSTER", "INFO"), "ascii")
        told: dict[str, Any] = {**dict(line.split(":", 1) for line in text.split()), **self.client.info("replication")}
        return told

    @property
    def process_id(self) -> int:
        """Its process."""
        number: int = self.client.info("server")["process_id"]
        return number

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.process_id, signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have it take connections and answer nothing."""
        process_id = self.process_id
        os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process_id, signal.SIGCONT)

    def holds(self, slot: int) -> int:
        """Return how many keys of a slot are here."""
        number: int = self.ask("CLUSTER", "COUNTKEYSINSLOT", slot)
        return number


@dataclass
class ClusterWorld:
    """Primaries, the one at place N with the slots from N thirds on, and the replica of each at the same place."""

    primaries: list[Node]
    replicas: list[Node]

    @property
    def url(self) -> str:
        """What a client connects to; it names two nodes, as one may be away."""
        return f"redis+cluster://{self.hosts}"

    @property
    def hosts(self) -> str:
        """Two of its nodes as a URL names them."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.primaries[:2])

    def place_of(self, tag: str) -> int:
        """Return which primary has the slot of a hash tag at the beginning."""
        return key_slot(tag.encode()) * len(self.primaries) // SLOTS

    def partition_at(self, place: int) -> str:
        """Return a new partition that is at a primary."""
        return next(one for one in iter(new_partition, "") if self.place_of(one) == place)

    def move_half(self, slot: int, source: Node, target: Node) -> None:
        """Begin to move a slot, and stop with half of its keys gone."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys[: len(keys) // 2])

    def move(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot with its keys, key by key, as every tool for clusters does."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.primaries):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until another process has come to something."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def run_cluster(*, binary: Path | None = None, certificate: Path | None = None) -> Iterator[ClusterWorld]:
    """Run a cluster of three primaries with a replica each. While one of them is away, the others serve.

    binary, certificate: as `run_cluster_node` has them.
    """
    tls: dict[str, Any] = {} if certificate is None else {"ssl": True, "ssl_ca_certs": str(certificate)}
    timing = ("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--repl-diskless-sync-delay", "0")
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(6):
            options = (*timing, "--cluster-require-full-coverage", "no")
            port, bus = stack.enter_context(run_cluster_node(*options, binary=binary, certificate=certificate))
            node = Node(port, bus, stack.enter_context(Redis(host="127.0.0.1", port=port, **tls)), "")
            node.id = node.ask("CLUSTER", "MYID").decode()
            nodes.append(node)
        world = ClusterWorld(nodes[:3], nodes[3:])
        _join(world, nodes)
        yield world


def _join(world: ClusterWorld, nodes: Sequence[Node]) -> None:
    bounds = [-(-SLOTS * place // 3) for place in range(4)]
    for place, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
    for place, node in enumerate(world.primaries):
        node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[place], bounds[place + 1] - 1)
    for one in nodes:
        for other in nodes:
            if one is not other:
                one.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus)
    wait_until(lambda: all(node.state()["cluster_known_nodes"] == "6" for node in nodes))
    for node, primary in zip(world.replicas, world.primaries, strict=True):
        wait_until(lambda node=node, primary=primary: primary.id.encode() in node.ask("CLUSTER", "NODES"))  # type: ignore[misc]
        node.ask("CLUSTER", "REPLICATE", primary.id)
    wait_until(lambda: all(node.state()["cluster_state"] == "ok" for node in nodes))
    wait_until(lambda: all(node.state()["master_link_status"] == "up" for node in world.replicas))
    wait_until(lambda: all(node.state()["connected_slaves"] == 1 for node in world.primaries))
