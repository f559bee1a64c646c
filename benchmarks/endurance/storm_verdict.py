"""What must be true of a conversation after a storm."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

from benchmarks.endurance.storm_log import ROOT, Log, Wire, key

#: Pairs of branches that are held against each other.
PAIRS = 3000

_OWN_TEXT = re.compile(r"c(\d+)\.(\d+)")
Lines = dict[str, list[str]]


async def judge(wire: Wire, own: Lines) -> None:
    """Read everything and note what is wrong. own: branches whose content is known."""
    log = wire.log
    lines: Lines = {}
    for branch in await wire.branches():
        name = branch["name"]
        done, alone = await wire.call("GET", f"{wire.path}/branches/{name}")
        items = await wire.items(name)
        if not done or alone != branch or items is None:
            log.fault(f"{name} is listed as {branch} and read as {alone}")
            continue
        if branch["item_count"] != len(items):
            log.fault(f"{name} has {len(items)} items and counts {branch['item_count']}")
        if len({item["id"] for item in items}) < len(items):
            log.fault(f"{name} has an item twice")
        lines[name] = [key(item) for item in items]
    _expect_beginnings(log, lines)
    _expect_own(log, lines, own)
    _expect_nothing_lost(log, lines)
    _expect_order(log, lines)
    _expect_common_beginnings(log, lines, wire.seed)
    await _expect_deleted(wire, lines)
    log.found |= {"branches": len(lines), "items listed": sum(map(len, lines.values())), "writes": len(log.said)}


def _expect_beginnings(log: Log, lines: Lines) -> None:
    for name, keys in lines.items():
        if keys[:1] != [ROOT]:
            log.fault(f"{name} begins with {keys[:1]}")
        if twice := [one for one, count in Counter(keys).items() if count > 1]:
            log.fault(f"{name} has {twice} more than once")


def _expect_own(log: Log, lines: Lines, own: Lines) -> None:
    """A client's own branches have exactly what it put there."""
    for name, keys in own.items():
        expected = [one for one in keys if one not in log.deleted]
        if lines.get(name) != expected:
            log.fault(f"{name} has {lines.get(name)}, and its client put {expected} there")
    if strangers := {name for name in lines if name.startswith("own") and name not in own}:
        log.fault(f"nobody has {strangers}")


def _expect_nothing_lost(log: Log, lines: Lines) -> None:
    """What was told to be stored is somewhere, unless it was deleted, or was or may have been on a deleted branch."""
    there = {one for keys in lines.values() for one in keys}
    for said in log.said:
        if said.key in there or said.key in log.deleted:
            continue
        if any(said.key in one.keys for one in log.losses):
            log.found["writes on branches that were deleted"] += 1
        elif any(said.asked < one.gone and one.seen < said.told for one in log.losses):
            log.found["writes that may have come to a branch just before its deletion"] += 1
        else:
            log.fault(f"{said.key} was told to be stored and is nowhere")


def _expect_order(log: Log, lines: Lines) -> None:
    """A client's items are in the order in which it sent them; an answer follows its question."""
    gone = log.deleted.keys() | log.left_out
    for name, keys in lines.items():
        last: dict[str, int] = {}
        for one in keys:
            if match := _OWN_TEXT.fullmatch(one):
                client, number = match[1], int(match[2])
                if number <= last.get(client, 0):
                    log.fault(f"{name} has {one} after {client}.{last[client]}")
                last[client] = number
        for before, one in pairwise(keys):
            question = log.answers.get(one, before)
            if question not in {before} | gone:
                log.fault(f"{name} has the answer to {question} after {before}")


def _expect_common_beginnings(log: Log, lines: Lines, seed: int) -> None:
    """Up to the last item that two branches share they are the same, but for what was left out by name."""
    dice, names = random.Random(seed), sorted(lines)
    for _ in range(min(PAIRS, len(names) ** 2)):
        one, other = dice.choice(names), dice.choice(names)
        both = set(lines[one]) & set(lines[other])
        heads = []
        for keys in (lines[one], lines[other]):
            past = max((i for i, found in enumerate(keys) if found in both), default=-1) + 1
            heads.append([found for found in keys[:past] if found not in log.left_out])
        if heads[0] != heads[1]:
            log.fault(f"{one} and {other} differ before an item that they share")


async def _expect_deleted(wire: Wire, lines: Lines) -> None:
    for name, keys in lines.items():
        if left := wire.log.deleted.keys() & set(keys):
            wire.log.fault(f"{name} has {left}, which was deleted")
    for item_id in list(wire.log.deleted.values())[:50]:
        if (await wire.call("GET", f"{wire.path}/items/{item_id}"))[0]:
            wire.log.fault(f"{item_id} was deleted and can be read")
