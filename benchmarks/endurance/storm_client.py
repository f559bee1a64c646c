"""One client of a storm: what it does at random, and what it notes of the answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from benchmarks.endurance.storm_log import ROOT, Item, Loss, Said, Wire, clock, key

#: More shared branches than this, or more of its own, and branches are deleted more often than made.
MANY = 60
MANY_OWN = 5


class Client:
    """Does one thing after the other. own: its own branches, name → keys of what must be on them."""

    def __init__(self, wire: Wire, number: int, seed: int) -> None:
        self.own: dict[str, list[str]] = {}
        self._wire = wire
        self._log = wire.log
        self._number = number
        self._count = 0
        self._dice = random.Random(f"{seed} {number}")
        self._responses: dict[str, list[str]] = {}

    async def work(self, is_over: Callable[[], bool]) -> None:
        """Do things at random until it is over."""
        weights: dict[Callable[[], Awaitable[None]], int] = {
            self.append: 8,
            self.take_turn: 8,
            self.fork: 3,
            self.take_forking_turn: 3,
            self.edit: 4,
            self.regenerate: 4,
            self.delete_item: 3,
            self.delete_by_branch: 3,
            self.delete_branch: 4,
            self.activate: 2,
            self.rename: 2,
            self.read_branch: 4,
            self.list_branches: 2,
            self.compare: 2,
            self.race_for_a_name: 1,
            self.begin_own: 2,
            self.append_to_own: 6,
            self.take_turn_on_own: 6,
            self.fork_own: 4,
            self.travel: 2,
            self.rename_own: 2,
            self.delete_own: 2,
        }
        actions = list(weights)
        self._log.done.update(dict.fromkeys((action.__name__ for action in actions), 0))
        while not is_over():
            action = self._dice.choices(actions, list(weights.values()))[0]
            if len(self._log.names) > MANY and action in {self.fork, self.take_forking_turn}:
                action = self.delete_branch
            elif len(self.own) > MANY_OWN and action in {self.begin_own, self.fork_own, self.travel}:
                action = self.delete_own
            await action()
            self._log.done[action.__name__] += 1

    # What is shared

    async def append(self) -> None:
        branch, text, asked = self._shared(), self._text(), clock()
        if await self._append(branch, text):
            self._log.said.append(Said(text, asked, clock()))

    async def take_turn(self) -> None:
        branch = self._shared()
        conversation = {"branch": branch} if branch else {}
        await self._shared_turn(conversation)

    async def take_forking_turn(self) -> None:
        item = await self._some_item()
        if item:
            await self._shared_turn({"fork_from": item["id"], "branch": self._name("s")})

    async def _shared_turn(self, place: dict[str, str]) -> None:
        text, asked = self._text(), clock()
        response = await self._wire.turn({"id": self._id, **place}, text, stream=self._dice.random() < 0.5)
        if response:
            self._note([text, *self._answers(response, text)], asked)

    async def fork(self) -> None:
        item = await self._some_item()
        body = {"name": self._name("s"), "description": "shared"}
        if item and self._dice.random() < 0.7:
            body["fork_from_item_id"] = item["id"]
        done, branch = await self._wire.call("POST", f"{self._wire.path}/branches", body)
        if done:
            self._log.names.append(branch["name"])
            if "fork_from_item_id" in body and branch["forked_from_item_id"] != body["fork_from_item_id"]:
                self._log.fault(f"a fork at {body['fork_from_item_id']} is at {branch['forked_from_item_id']}")

    async def edit(self) -> None:
        branch = self._any()
        item = await self._some_item(branch, role="user")
        if item is None:
            return
        text, asked, answers = self._text(), clock(), self._dice.random() < 0.5
        body = {"content": text, "regenerate": answers, "model": "echo"}
        if answers:
            body["stream"] = self._dice.random() < 0.5
        done, answer = await self._wire.call("POST", self._path(item, "/edit"), body, branch=branch)
        if done:
            keys = [text]
            if answers and (response := self._wire.response_in(answer)):
                keys += self._answers(response, text)
            self._note(keys, asked)
            self._learn(answer["old_main_backup"])

    async def regenerate(self) -> None:
        branch = self._any()
        item = await self._some_item(branch)
        if item is None:
            return
        asked, body = clock(), {"model": "echo", "stream": self._dice.random() < 0.5}
        done, answer = await self._wire.call("POST", self._path(item, "/regenerate"), body, branch=branch)
        if done:
            if response := self._wire.response_in(answer):
                self._note([key(one) for one in response["output"]], asked)
            self._learn(answer["old_main_backup"])

    async def delete_item(self) -> None:
        item = await self._some_item(self._any())
        if item is None:
            return
        self._log.going.add(key(item))
        if (await self._wire.call("DELETE", self._path(item), mode="item"))[0]:
            self._log.deleted[key(item)] = item["id"]

    async def delete_by_branch(self) -> None:
        branch = self._any()
        item = await self._some_item(branch)
        if item is None:
            return
        cascade = self._dice.choice(("true", "false"))
        if cascade == "false":
            self._log.left_out.add(key(item))
        query = {"mode": "branch", "cascade": cascade, "branch": branch}
        done, answer = await self._wire.call("DELETE", self._path(item), **query)
        if done:
            self._learn(answer["old_main_backup"])

    async def delete_branch(self) -> None:
        names = [name for name in self._log.names if name != "MAIN"]
        if not names:
            return
        name, seen = self._dice.choice(names), clock()
        items = await self._wire.items(name)
        if items is None:
            self._forget(name)
        elif (await self._wire.call("DELETE", f"{self._wire.path}/branches/{name}"))[0]:
            self._log.losses.append(Loss(frozenset(map(key, items)), seen, clock()))
            self._forget(name)

    async def activate(self) -> None:
        await self._wire.call("POST", f"{self._wire.path}/branches/{self._shared() or 'MAIN'}/activate")

    async def rename(self) -> None:
        name, new = self._shared(), self._name("s")
        if name not in {"", "MAIN"}:
            done, _ = await self._wire.call("PATCH", f"{self._wire.path}/branches/{name}", {"name": new})
            self._forget(name)
            if done:
                self._learn(new)

    async def read_branch(self) -> None:
        branch = self._shared()
        found = [key(item) for item in await self._wire.items(branch) or []]
        if branch == "MAIN" and found[:1] not in ([], [ROOT]):
            self._log.fault(f"MAIN began with {found[:1]}")
        _, page = await self._wire.call("GET", f"{self._wire.path}/items", branch="MAIN", order="asc", limit="1")
        if [key(item) for item in page["data"]] != [ROOT]:
            self._log.fault("MAIN was seen empty")

    async def list_branches(self) -> None:
        listed = {branch["name"]: branch for branch in await self._wire.branches()}
        self._log.names = [name for name in listed if not name.startswith("own")]
        if "MAIN" not in listed:
            self._log.fault("MAIN is not listed")
        for name in self._dice.sample(sorted(listed), min(5, len(listed))):
            if not (await self._wire.call("GET", f"{self._wire.path}/branches/{name}"))[0]:
                again = {branch["name"] for branch in await self._wire.branches()}
                if name in again:
                    self._log.fault(f"{name} is listed and can't be read")

    async def compare(self) -> None:
        first, second = self._shared() or "MAIN", self._shared() or "MAIN"
        done, found = await self._wire.call("GET", f"{self._wire.path}/branches/{first}/compare/{second}", limit="5")
        if done and first == second and any(found[side]["data"] for side in ("only_in_branch", "only_in_other_branch")):
            self._log.fault(f"{first} differs from itself")

    async def race_for_a_name(self) -> None:
        name, text, asked = self._name("s"), self._text(), clock()
        last = await self._wire.items("MAIN", limit=1, order="desc")
        if not last:
            return
        forking = self._wire.call("POST", f"{self._wire.path}/branches", {"name": name, "parent_branch": "MAIN"})
        place = {"id": self._id, "branch": name, "fork_from": last[0]["id"]}
        (forked, _), response = await asyncio.gather(forking, self._wire.turn(place, text, stream=False))
        if forked and response:
            self._log.fault(f"{name} was made twice")
        if response:
            self._note([text, *self._answers(response, text)], asked)

    # What it has for itself

    async def begin_own(self) -> None:
        name = self._name("own")
        item = await self._some_item()
        body = {"name": name} | ({"fork_from_item_id": item["id"]} if item else {})
        if (await self._wire.call("POST", f"{self._wire.path}/branches", body))[0]:
            items = await self._wire.items(name)
            if items is None:
                return self._log.fault(f"{name} was made and can't be listed")
            self.own[name] = [key(one) for one in items]
        return None

    async def append_to_own(self) -> None:
        if name := self._some_own():
            text = self._text()
            if await self._append(name, text):
                self.own[name].append(text)
            else:
                self._log.fault(f"nothing could be added to {name}")

    async def take_turn_on_own(self) -> None:
        if name := self._some_own():
            text, new = self._text(), self._name("own")
            taking = self._wire.turn({"id": self._id, "branch": name}, text, stream=self._dice.random() < 0.5)
            if self._dice.random() < 0.3:
                renaming = self._wire.call("PATCH", f"{self._wire.path}/branches/{name}", {"name": new})
                response, (renamed, _) = await asyncio.gather(taking, renaming)
                if renamed:
                    self.own[new] = self.own.pop(name)
                    name = new
            else:
                response = await taking
                if response is None:
                    return self._log.fault(f"no turn could be taken on {name}")
            if response:
                self.own[name] += [text, *self._answers(response, text)]
                self._responses[response["id"]] = list(self.own[name])
        return None

    async def fork_own(self) -> None:
        name, new, text = self._some_own(), self._name("own"), self._text()
        items = await self._wire.items(name) if name else None
        if not name or not items:
            return
        item = self._dice.choice(items)
        base = self.own[name][: self.own[name].index(key(item)) + 1]
        if self._dice.random() < 0.5:
            place = {"id": self._id, "branch": new, "fork_from": item["id"]}
            response = await self._wire.turn(place, text, stream=self._dice.random() < 0.5)
            if response:
                await self._begin_at(new, [*base, text, *self._answers(response, text)])
            return
        body = {"name": new, "parent_branch": name, "fork_from_item_id": item["id"]}
        if (await self._wire.call("POST", f"{self._wire.path}/branches", body))[0]:
            self.own[new] = base

    async def travel(self) -> None:
        if not self._responses:
            return None
        response_id, text, new = self._dice.choice(sorted(self._responses)), self._text(), self._name("own")
        place = {"id": self._id, "branch": new, "at": response_id}
        response = await self._wire.turn(place, text, stream=self._dice.random() < 0.5)
        if response is None:
            return self._log.fault(f"{response_id} can't be gone back to")
        self.own[new] = [*self._responses[response_id], text, *self._answers(response, text)]
        return None

    async def rename_own(self) -> None:
        if name := self._some_own():
            new = self._name("own")
            if not (await self._wire.call("PATCH", f"{self._wire.path}/branches/{name}", {"name": new}))[0]:
                return self._log.fault(f"{name} could not be renamed")
            self.own[new] = self.own.pop(name)
        return None

    async def delete_own(self) -> None:
        name = self._some_own()
        if name and len(self.own) > 3:
            if not (await self._wire.call("DELETE", f"{self._wire.path}/branches/{name}"))[0]:
                return self._log.fault(f"{name} could not be deleted")
            seen = self.own.pop(name)
            self._log.losses.append(Loss(frozenset(seen), clock(), clock()))
        return None

    async def _begin_at(self, name: str, expected: list[str]) -> None:
        """Note a branch of its own that was forked at an item of some branch: others may lack what was left out."""
        items = await self._wire.items(name)
        self.own[name] = [key(item) for item in items or []]
        gone = self._log.left_out | self._log.going
        kept = [[one for one in keys if one not in gone] for keys in (self.own[name], expected)]
        if kept[0] != kept[1]:
            self._log.fault(f"{name} was made of {expected} and has {self.own[name]}")

    # The parts of it

    @property
    def _id(self) -> str:
        return self._wire.path.rpartition("/")[2]

    def _path(self, item: Item, tail: str = "") -> str:
        return f"{self._wire.path}/items/{item['id']}{tail}"

    def _text(self) -> str:
        self._count += 1
        return f"c{self._number}.{self._count}"

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._number}-{self._count}"

    def _shared(self) -> str:
        """Return the name of a branch that all clients use; '' is the active one."""
        return self._dice.choice(["MAIN", "MAIN", "", self._dice.choice(self._log.names)])

    def _any(self) -> str:
        return self._some_own() or "MAIN" if self._dice.random() < 0.2 else self._shared()

    def _some_own(self) -> str:
        return self._dice.choice(sorted(self.own)) if self.own else ""

    def _learn(self, name: str) -> None:
        if name:
            self._log.names.append(name)

    def _forget(self, name: str) -> None:
        self._log.names = [one for one in self._log.names if one != name]

    def _note(self, keys: list[str], asked: float) -> None:
        told = clock()
        self._log.said += [Said(one, asked, told) for one in keys]

    def _answers(self, response: Item, question: str) -> list[str]:
        found = [key(item) for item in response["output"]]
        self._log.answers[found[0]] = question
        return found

    async def _append(self, branch: str, text: str) -> bool:
        body = {"items": [{"type": "message", "role": "user", "content": text}]}
        return (await self._wire.call("POST", f"{self._wire.path}/items", body, branch=branch))[0]

    async def _some_item(self, branch: str | None = None, role: str = "") -> Item | None:
        items = await self._wire.items(self._shared() if branch is None else branch, limit=20, order="desc")
        chosen = [item for item in items or [] if key(item) != ROOT and role in {"", item["role"]}]
        return self._dice.choice(chosen) if chosen else None
