"""Story: what three callers do with a server, so that its store has some of everything, and what is then left undone.

The last chapter leads to the server's death: a response is being made, others wait for it, and a request under an
idempotency key has no answer yet. `names` is what the tests have to know of all that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from tests.items import user
from tests.proxy.relay.streams import WHOLE, completed
from tests.upstream import CUT, HANG, Reply, ScriptedUpstream

ALICE, BOB, CAROL = "sk-alice", "sk-bob", "sk-carol"
TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]
SEALED: dict[str, Any] = {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}
#: Unicode that has been in somebody's way before: beyond the BMP, right to left, combining, line ends, NUL.
ODD = 'Zoë 漢字 🧑‍🚀 עִבְרִית e\u0301 \u2028\u2029\u0085 \x00\x1e\x1f\x7f "\\/ \ufeff\U0010ffff'
#: A text of more than 1,000 tokens, and one of 8 kB.
LONG, LARGE = "a b c d e " * 220, "0123456789abcdef" * 512
SOON_SECONDS = 20.0
QUEUE = "branchline:jobs:{jobs}"


class Client:
    """A caller. key: its credential. responses: the ids of all responses that it was told of."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self._http, self._url, self.key = http, url, key
        self.headers = {"Authorization": f"Bearer {key}"}
        self.responses: list[str] = []

    async def call(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        """Return the JSON of an answer, which must have the status `expect`; a stream's last response."""
        url = f"{self._url}/v1{path}"
        async with self._http.request(method, url, json=body, headers=self.headers) as response:
            text = await response.text()
            assert response.status == expect, text
            if response.content_type == "text/event-stream":
                return self._note(orjson.loads(text.split("\ndata: ")[-2].partition("\n\n")[0])["response"])
            return self._note(orjson.loads(text)) if text else None

    async def turn(self, text: Any, **fields: Any) -> Any:
        """Take a turn; return its response."""
        return await self.call("POST", "/responses", {"model": "echo", "input": text, **fields})

    async def conversation(self, *texts: str, **facts: Any) -> str:
        """Make a conversation that begins with users' messages; return its id."""
        made = await self.call("POST", "/conversations", {"items": [user(text) for text in texts], **facts})
        return str(made["id"])

    async def items(self, conversation: str, branch: str = "") -> list[dict[str, Any]]:
        """Return the first 100 items of a branch, oldest first."""
        page = await self.call("GET", f"/conversations/{conversation}/items?order=asc&limit=100&branch={branch}")
        return list(page["data"])

    async def over(self, response_id: str) -> Any:
        """Wait until a background response is terminal; return it."""
        async with asyncio.timeout(SOON_SECONDS):
            while True:
                response = await self.call("GET", f"/responses/{response_id}")
                if response["status"] not in {"queued", "in_progress"}:
                    return response
                await asyncio.sleep(0.05)

    def _note(self, body: Any) -> Any:
        # that of an edit or a regeneration is beside what became of its branch
        response = body.get("response") or body
        if response.get("object") == "response" and response["id"] not in self.responses:
            self.responses.append(response["id"])
        return body


def event_in(frame: bytes) -> dict[str, Any]:
    """The event of one frame of a stream."""
    event: dict[str, Any] = orjson.loads(frame.partition(b"\ndata: ")[2])
    return event


def says(*output: dict[str, Any]) -> Reply:
    """The model's answer with this output."""
    return Reply.json(200, {"id": "r", "object": "response", "status": "completed", "model": "m", "output": output})


def message(text: str) -> dict[str, Any]:
    """What the model says."""
    return {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


async def let_expire(carol: Client) -> str:
    """Have a conversation with branches on a server that keeps conversations for a time only; return its id."""
    talk = await carol.conversation("for now", title="Expires", referrer="widget")
    for text in ("one", "two"):
        await carol.turn(text, conversation=talk)
    second = (await carol.items(talk))[1]
    fork = {"name": "draft", "fork_from_item_id": second["id"]}
    await carol.call("POST", f"/conversations/{talk}/branches", fork, expect=201)
    await carol.turn("on the draft", conversation={"id": talk, "branch": "draft"})
    return talk


class Story:
    """What happens, chapter by chapter. upstream: the model. redis: a client of the store's server, only to look."""

    def __init__(self, http: aiohttp.ClientSession, url: str, upstream: ScriptedUpstream, redis: Any) -> None:
        self._http, self._url, self._upstream, self._redis = http, url, upstream, redis
        self.alice, self.bob = Client(http, url, ALICE), Client(http, url, BOB)
        self.names: dict[str, Any] = {"deleted": []}

    async def tell(self) -> None:
        """Everything that is over before the last chapter."""
        await self._branches()
        await self._items()
        await self._tools()
        await self._chains()
        await self._compaction()
        await self._deletions()
        await self._somebody_else()
        await self._background()
        await self._keys()
        await self._lost_answer()

    async def _branches(self) -> None:
        """A conversation with branches of all kinds, one of them active."""
        alice = self.alice
        facts: dict[str, Any] = {"title": f"Trip {ODD}", "project_id": "p-1", "referrer": "widget"}
        facts["metadata"] = {"\u03b1": ODD, "b": "c"}
        trip = self.names["trip"] = await alice.conversation("first", f"second {ODD}", **facts)
        path = f"/conversations/{trip}"
        first = await alice.turn("third", conversation=trip, metadata={"turn": "1"}, temperature=0.5)
        streamed = await alice.turn("fourth", conversation=trip, stream=True, **SEALED)
        items = await alice.items(trip)
        plan = {"name": "draft", "fork_from_item_id": items[1]["id"], "description": f"Another end {ODD}"}
        await alice.call("POST", f"{path}/branches", plan, expect=201)
        await alice.turn("on the draft", conversation={"id": trip, "branch": "draft"})
        await alice.call("POST", f"{path}/branches", {"name": "deeper", "parent_branch": "draft"}, expect=201)
        await alice.turn("deeper still", conversation={"id": trip, "branch": "deeper"})
        edit = {"content": "third, but better", "regenerate": True, "model": "echo", "instructions": "Be brief."}
        await alice.call("POST", f"{path}/items/{items[2]['id']}/edit", edit)
        await alice.turn("after the edit", conversation=trip)
        newest = (await alice.items(trip))[-1]
        await alice.call("POST", f"{path}/items/{newest['id']}/regenerate", {"model": "other"})
        forked = {"id": trip, "fork_from": items[3]["id"], "branch": "by-a-turn"}
        await alice.turn("a turn that forks", conversation=forked)
        outside = await alice.turn("leaves the conversation", previous_response_id=first["id"])
        back = {"id": trip, "at": outside["id"], "branch": "come-back"}
        await alice.turn("comes back", conversation=back)
        for name in ("short-lived", "for-good"):
            await alice.call("POST", f"{path}/branches", {"name": name, "parent_branch": "deeper"}, expect=201)
            await alice.turn(f"on {name}", conversation={"id": trip, "branch": name})
        await alice.call("DELETE", f"{path}/branches/short-lived", expect=204)
        self.names["deleted"].append(f"/v1{path}/branches/short-lived")
        await alice.call("POST", f"{path}/branches/for-good", {"name": "Renamed.1", "description": None})
        await alice.call("DELETE", f"{path}/items/{(await alice.items(trip))[1]['id']}?mode=branch")
        # an item of another branch, by reference: the branch is mixed from then on
        shared = {"items": [{"type": "item_reference", "id": streamed["output"][-1]["id"]}]}
        await alice.call("POST", f"{path}/items?branch=draft", shared)
        await alice.call("POST", f"{path}/branches/draft/activate")
        await alice.turn("where I am now", conversation=trip)

    async def _items(self) -> None:
        """Items brought along and unknown ones, large ones, many, and deleted ones."""
        alice = self.alice
        many = self.names["many"] = await alice.conversation(title="Many", metadata={"k": "v" * 512})
        path = f"/conversations/{many}"
        for batch in range(6):
            items = [user(f"{batch * 18 + one}") for one in range(18)]
            await alice.call("POST", f"{path}/items", {"items": items})
        brought = [
            {"id": "msg_brought-along", **user("mine")},
            {"type": "hologram", "beam": [1.0, -0.0, 1e100, None, {"": []}], "id": "holo_1"},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": ODD}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]},
        ]
        await alice.call("POST", f"{path}/items", {"items": brought})
        self._upstream.script(says(message(LARGE)))
        await alice.turn(LARGE, conversation=many)
        page = await alice.items(many)
        for item in (page[0], page[50], page[99]):
            await alice.call("DELETE", f"{path}/items/{item['id']}")
            self.names["deleted"].append(f"/v1{path}/items/{item['id']}")
        await alice.turn([{"type": "item_reference", "id": "msg_brought-along"}, user("again")], conversation=many)

    async def _tools(self) -> None:
        """Calls: answered, still waiting, in parallel, custom ones, reasoning in front."""
        alice = self.alice
        tools = self.names["tools"] = await alice.conversation(referrer="widget")
        asked = await alice.turn("call weather Paris", conversation=tools, tools=TOOLS, **SEALED)
        output = {"type": "function_call_output", "call_id": asked["output"][-1]["call_id"], "output": "sunny"}
        await alice.turn([output], conversation=tools, tools=TOOLS)
        custom = {"type": "custom_tool_call", "id": "c", "call_id": "call_custom", "name": "run", "input": "ls"}
        search = {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search"}}
        self._upstream.script(says(search, custom))
        await alice.turn("search and run", conversation=tools)
        answered = {"type": "custom_tool_call_output", "call_id": "call_custom", "output": "a b"}
        await alice.turn([answered], conversation=tools)
        await alice.call("POST", f"/conversations/{tools}/branches", {"name": "before-the-calls"}, expect=201)
        waiting = await alice.turn("call weather Oslo call weather Rome", conversation=tools, tools=TOOLS)
        self.names["calls"] = [item["call_id"] for item in waiting["output"]]

    async def _chains(self) -> None:
        """Chains of responses: deep, forked, with one deleted, failed, cut short and unstored ones."""
        alice = self.alice
        chain = [await alice.turn("one", instructions="Count.")]
        for text in ("two", "three", "four", "five"):
            chain.append(await alice.turn(text, previous_response_id=chain[-1]["id"], stream=text == "three"))
        await alice.turn("not three", previous_response_id=chain[1]["id"])
        await alice.call("DELETE", f"/responses/{chain[2]['id']}")
        await alice.turn("long, long", previous_response_id=chain[4]["id"], max_output_tokens=2)
        self._upstream.script(Reply.sse([*WHOLE[:7], CUT], done=False))
        failed = await alice.turn("fails", previous_response_id=chain[4]["id"], stream=True)
        await alice.turn("goes on from before", previous_response_id=failed["id"])
        await alice.turn("never kept", previous_response_id=chain[4]["id"], store=False)
        self._upstream.script(Reply.sse(WHOLE))
        called = await alice.turn("calls", previous_response_id=chain[4]["id"], stream=True)
        self.names |= {"chain": chain[4]["id"], "calling": called["id"]}
        self.names["deleted"].append(f"/v1/responses/{chain[2]['id']}")

    async def _compaction(self) -> None:
        """Conversation and chain whose history a summary of ours stands for."""
        alice = self.alice
        managed: dict[str, Any] = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}
        compacted = self.names["compacted"] = await alice.conversation("remember me", title="Compacted")
        await alice.turn(LONG, conversation=compacted)
        self._upstream.script(Reply.sse([completed(message("SUMMARY"))]))
        await alice.turn("go on", conversation=compacted, **managed)
        self._upstream.script(Reply.sse([completed(message("SUMMARY"))]))
        trigger = [user("before the trigger"), {"type": "compaction_trigger"}]
        self.names["compacted chain"] = (await alice.turn(trigger))["id"]

    async def _deletions(self) -> None:
        """A conversation that is gone but for its response, one without, and one that came back by an import."""
        alice = self.alice
        gone = [await alice.conversation(text, title="Gone") for text in ("gone", "gone too")]
        left = await alice.turn("stays readable", conversation=gone[0])
        for conversation in gone:
            await alice.call("DELETE", f"/conversations/{conversation}")
            self.names["deleted"].append(f"/v1/conversations/{conversation}")
        imported = await alice.conversation("comes back", project_id="p-1")
        await alice.turn("with a turn", conversation=imported)
        async with self._http.get(f"{self._url}/v1/conversations/{imported}/export", headers=alice.headers) as response:
            exported = await response.read()
        await alice.call("DELETE", f"/conversations/{imported}")
        headers = {**alice.headers, "Content-Type": "application/x-ndjson"}
        async with self._http.post(f"{self._url}/v1/conversations/import", data=exported, headers=headers) as response:
            assert response.status == 201, await response.text()
        self.names |= {"left": left["id"], "imported": imported}

    async def _somebody_else(self) -> None:
        """Another owner, with the same listings, and an item under an id that the first one has."""
        facts: dict[str, Any] = {"project_id": "p-1", "referrer": "widget", "metadata": {"empty": "", "a": "b"}}
        talk = self.names["bob's"] = await self.bob.conversation("hello", **facts)
        own = {"id": "msg_brought-along", "type": "message", **user("Bob's own")}
        answer = await self.bob.turn([own], conversation=talk)
        for text in ("chained", "and chained"):
            answer = await self.bob.turn(text, previous_response_id=answer["id"])
        await self.bob.conversation("another one")

    async def _background(self) -> None:
        """Background responses that are over: plain, streamed, failed, cancelled."""
        alice, upstream = self.alice, self._upstream
        plain = await alice.turn("take your time", background=True, metadata={"kind": "background"})
        await alice.over(plain["id"])
        upstream.script(Reply.sse(WHOLE))
        streamed = await alice.turn("tell me", background=True, stream=True)
        self.names["streamed"] = streamed["id"]
        upstream.script(Reply.json(429, {"error": {"message": "Too much.", "code": "rate_limit_exceeded"}}))
        await alice.over((await alice.turn("refused", background=True))["id"])
        upstream.script(Reply.sse([*WHOLE[:4], HANG]))
        asked = len(upstream.requests)
        cancelled = await alice.turn("cancelled", background=True)
        await upstream.wait_for_requests(asked + 1)
        await alice.call("POST", f"/responses/{cancelled['id']}/cancel")

    async def _keys(self) -> None:
        """Idempotency keys with their answers: of turns plain, streamed and in the background, and of a refusal."""
        requests = {
            "plain": ("/v1/responses", {"model": "echo", "input": f"once {ODD}", "conversation": self.names["many"]}),
            "streamed": ("/v1/responses", {"model": "echo", "input": "once, in pieces", "stream": True}),
            "unstored": ("/v1/responses", {"model": "echo", "input": "once, and forgotten", "store": False}),
            "background": ("/v1/responses", {"model": "echo", "input": "later", "background": True, "stream": True}),
            "refused": ("/v1/responses", {"model": "echo", "input": [{"type": "item_reference", "id": "msg_nope"}]}),
            "made": ("/v1/conversations", {"title": "Made once"}),
        }
        self.names["keyed"] = {
            name: await self._answer_under(f"key {name}", path, body) for name, (path, body) in requests.items()
        }

    async def _answer_under(self, key: str, path: str, body: Any) -> dict[str, Any]:
        async with self._post(path, body, key) as response:
            text = await response.text()
            return {"key": key, "path": path, "body": body, "status": response.status, "answer": text}

    @asynccontextmanager
    async def _post(self, path: str, body: Any, idempotency_key: str = "") -> AsyncIterator[aiohttp.ClientResponse]:
        """Post something as Alice and give the answer as it begins."""
        headers = {**self.alice.headers, "Idempotency-Key": idempotency_key}
        async with self._http.post(self._url + path, json=body, headers=headers) as response:
            yield response

    async def _lost_answer(self) -> None:
        """A stream whose client left; it went on to its end, and the answer is kept for the client's next attempt."""
        go = asyncio.Event()
        self._upstream.script(Reply.sse([*WHOLE[:6], go, *WHOLE[6:]]))
        body = {"model": "echo", "input": "left alone", "stream": True}
        answered = await self._count_keys("status")
        async with self._post("/v1/responses", body) as response:
            created = event_in(await response.content.readuntil(b"\n\n"))
            response.close()
        # the server has noticed, and notes that for the next attempt
        await self._until(lambda: self._count_keys("token"), 1)
        go.set()
        await self._until(lambda: self._count_keys("status"), answered + 1)
        self.alice.responses.append(created["response"]["id"])
        self.names["lost"] = {"path": "/v1/responses", "body": body, "response": created["response"]["id"]}

    async def _count_keys(self, field: str) -> int:
        """Count the idempotency keys with a field: `token` while they are held, `status` when they are answered."""
        keys = [key async for key in self._redis.scan_iter("*:idempotency:*")]
        return sum([await self._redis.hexists(key, field) for key in keys])

    async def _until(self, count: Callable[[], Awaitable[int]], wanted: int) -> None:
        async with asyncio.timeout(SOON_SECONDS):
            while await count() != wanted:  # noqa: ASYNC110 (another process: there is no event)
                await asyncio.sleep(0.02)

    # The last chapter.

    async def break_off(self) -> None:
        """Begin what the server's death ends: what runs, and what waits for it; one is made at a time."""
        await self._run()
        await self._wait()
        await self._ask_under_a_key()

    async def _run(self) -> None:
        """A background response that is being made; its first events are told."""
        talk = await self.alice.conversation("begin", title="Interrupted")
        # the model breaks off in the middle of what it would say to a second attempt, too
        items = [user("begin"), user("interrupted")]
        model = f"{self._upstream.url}/responses"
        async with self._http.post(model, json={"model": "echo", "input": items, "stream": True}) as response:
            whole = [frame + b"\n\n" for frame in (await response.read()).split(b"\n\n")]
        self._upstream.script(Reply.raw(200, "text/event-stream", chunks=[*whole[:8], HANG]))
        body = {"model": "echo", "input": "interrupted", "background": True, "stream": True, "conversation": talk}
        async with self._post("/v1/responses", body) as response:
            frames = [await response.content.readuntil(b"\n\n") for _ in range(8)]
        told = [frame for frame in frames if not frame.startswith(b":")]
        response_id = event_in(told[0])["response"]["id"]
        self.names["running"] = {"conversation": talk, "response": response_id, "told": b"".join(told).decode()}

    async def _wait(self) -> None:
        """Background responses that wait, one in a conversation, one in a chain."""
        talk = await self.alice.conversation("begin", title="Waiting")
        await self.alice.turn("go on", conversation=talk)
        plain = {"input": f"waits {ODD}", "conversation": talk, "metadata": {"waits": "1"}, "temperature": 0.5}
        streamed = {"input": "waits in a chain", "previous_response_id": self.names["chain"], "stream": True}
        self.names["waiting"] = {"plain": await self._queue(plain), "streamed": await self._queue(streamed)}

    async def _queue(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Put a response into the background; return what was asked for and the Response that waits."""
        body = {"model": "echo", "background": True, **fields}
        trace = f"{len(fields)}"
        async with self._post(f"/v1/responses?trace={trace}", body):
            # a stream says nothing of its response before that is begun
            ((_, fields_queued),) = await self._redis.xrevrange(QUEUE, count=1)
        response_id = fields_queued[b"response"].decode()
        queued = await self.alice.call("GET", f"/responses/{response_id}")
        assert queued["status"] == "queued"
        self.alice.responses.remove(response_id)
        return {"trace": trace, "body": body, "response": queued}

    async def _ask_under_a_key(self) -> None:
        """A turn under an idempotency key that nobody answers any more; its client waits until the server dies."""
        talk = await self.alice.conversation("begin", title="Unanswered")
        body = {"model": "echo", "input": "is anybody there", "conversation": talk}
        self.names["unanswered"] = {"key": "key unanswered", "path": "/v1/responses", "body": body}

        async def ask() -> None:
            with contextlib.suppress(aiohttp.ClientError):
                async with self._post("/v1/responses", body, "key unanswered"):
                    raise AssertionError("somebody answered")

        asked = len(self._upstream.requests)
        self._upstream.script(Reply.raw(200, "application/json", chunks=[HANG]))
        self._asking = asyncio.create_task(ask())
        await self._upstream.wait_for_requests(asked + 1)
