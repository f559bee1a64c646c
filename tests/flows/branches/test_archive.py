"""Whole conversations out of one place and into another: over HTTP, and by the command line."""

from __future__ import annotations

import asyncio
import gzip
import stat
from argparse import Namespace
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.cli.commands.backup import run_export, run_import
from proxy.cli.commands.maintenance import UpkeepError
from proxy.config.settings import Config, RedisConfig, Secret
from proxy.stores import open_store
from storage import partition_of
from tests.flows.conftest import Proxy, StartProxy
from tests.flows.talk import model_answer, new_conversation
from tests.items import user
from tests.processes import run
from tests.upstream import Reply

IMPORT = "/v1/conversations/import"
REASONING = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "sealed"}


async def converse(proxy: Proxy, key: str = "sk-alice", **facts: Any) -> tuple[str, list[str]]:
    """A conversation of two turns and a second branch; its id and the responses."""
    _, conversation = await proxy.call("POST", "/v1/conversations", {"items": [user("first")], **facts}, key=key)
    responses = []
    for text in ("one", "two"):
        proxy.upstream.script(Reply.json(200, model_answer(text, REASONING, model="m")))
        body = {"model": "m", "input": f"say {text}", "conversation": conversation["id"]}
        status, response = await proxy.call("POST", "/v1/responses", body, key=key)
        assert status == 200, response
        responses.append(response["id"])
    path = f"/v1/conversations/{conversation['id']}"
    status, _ = await proxy.call("POST", f"{path}/branches", {"name": "draft"}, key=key)
    assert status == 201
    return conversation["id"], responses


async def fetch(proxy: Proxy, path: str, key: str = "sk-alice") -> tuple[int, bytes, Any]:
    async with proxy.http.get(proxy.url + path, headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status, await response.read(), response.headers


async def export(proxy: Proxy, conversation: str, key: str = "sk-alice") -> bytes:
    status, text, _ = await fetch(proxy, f"/v1/conversations/{conversation}/export", key)
    assert status == 200, text
    return text


async def restore(
    proxy: Proxy, text: bytes, key: str = "sk-alice", kind: str | None = "application/x-ndjson", **headers: str
) -> tuple[int, Any, Any]:
    named = {"Authorization": f"Bearer {key}", **headers, **({"Content-Type": kind} if kind else {})}
    skip = [] if kind else ["Content-Type"]
    async with proxy.http.post(proxy.url + IMPORT, data=text, headers=named, skip_auto_headers=skip) as response:
        return response.status, await response.json(), response.headers


async def everything(proxy: Proxy, conversation: str, responses: list[str]) -> list[bytes]:
    """The answers to all that can be asked about a conversation."""
    one, sealed = f"/v1/conversations/{conversation}", "include[]=reasoning.encrypted_content"
    paths = [one, f"{one}/branches", f"{one}/items?order=asc&{sealed}", f"{one}/items?branch=draft&{sealed}"]
    for response in responses:
        paths += [f"/v1/responses/{response}?{sealed}", f"/v1/responses/{response}/input_items"]
        paths.append(f"{one}/items?at={response}")
    return [(await fetch(proxy, path))[1] for path in paths]


def renamed(some_id: str, restored: str) -> str:
    """What an id is after the import that made `restored`: it names another partition."""
    return some_id.replace(partition_of(some_id), partition_of(restored))


async def test_a_deleted_conversation_is_restored_with_its_ids(proxy: Proxy):
    conversation, responses = await converse(proxy, title="T", metadata={"a": "b"}, project_id="p")
    before = await everything(proxy, conversation, responses)
    text = await export(proxy, conversation)
    await proxy.call("DELETE", f"/v1/conversations/{conversation}")
    status, restored, _ = await restore(proxy, text)
    assert (status, restored["id"], restored["title"]) == (201, conversation, "T")
    assert await everything(proxy, conversation, responses) == before
    assert any(b'"sealed"' in one for one in before)
    assert (await restore(proxy, text))[:2] == (200, restored)
    assert await everything(proxy, conversation, responses) == before


async def test_a_restored_conversation_goes_on_in_another_store(proxy: Proxy, start_proxy: StartProxy):
    conversation, responses = await converse(proxy)
    # its reasoning is for the model server that made it
    there = await start_proxy(redis={"prefix": "there"}, upstream={"url": proxy.upstream.url})
    assert (await restore(there, await export(proxy, conversation)))[0] == 201
    for source in ({"conversation": conversation}, {"previous_response_id": responses[0]}):
        proxy.upstream.script(Reply.json(200, model_answer("three", REASONING, model="m")))
        status, _ = await there.call("POST", "/v1/responses", {"model": "m", "input": "go on", **source})
        assert status == 200
    sent = [len(request.json["input"]) for request in proxy.upstream.requests[-2:]]
    assert sent == [8, 5]


async def test_an_export_is_an_attachment_of_json_lines_with_an_end(proxy: Proxy):
    conversation, _ = await converse(proxy)
    _, text, headers = await fetch(proxy, f"/v1/conversations/{conversation}/export")
    assert headers["Content-Type"] == "application/x-ndjson"
    assert headers["Content-Disposition"] == f'attachment; filename="{conversation}.jsonl"'
    lines = [orjson.loads(line) for line in text.splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["conversation", *["branch"] * 2, *["append"] * 3, *["item"] * 7, "end"]
    assert (lines[-1]["items"], lines[4]["model"]) == (7, "m")
    assert "owner" not in lines[0]


async def test_head_tells_of_an_export_without_reading_it(proxy: Proxy):
    conversation, _ = await converse(proxy)
    headers = {"Authorization": "Bearer sk-alice"}
    async with proxy.http.head(f"{proxy.url}/v1/conversations/{conversation}/export", headers=headers) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_foreign_conversation_is_an_unknown_one_to_export(proxy: Proxy):
    conversation, _ = await converse(proxy)
    unknown = conversation[:-1] + ("0" if conversation[-1] != "0" else "1")
    answers = []
    for one in (conversation, unknown):
        status, body, _ = await fetch(proxy, f"/v1/conversations/{one}/export", "sk-mallory")
        error = orjson.loads(body)["error"]
        answers.append((status, {**error, "message": error["message"].replace(one, "ID")}))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_a_foreign_conversation_is_imported_like_an_unknown_one_under_other_ids(
    proxy: Proxy, start_proxy: StartProxy
):
    conversation, responses = await converse(proxy)
    before, text = await everything(proxy, conversation, responses), await export(proxy, conversation)
    there = await start_proxy(redis={"prefix": "there"})
    foreign, unknown = [await restore(one, text, "sk-mallory") for one in (proxy, there)]
    assert (foreign[0], unknown[0]) == (201, 201)
    assert {**foreign[1], "id": ""} == {**unknown[1], "id": ""}
    assert foreign[1]["id"] != unknown[1]["id"] == conversation
    # a repeat changes nothing, and whether the original is there makes no difference
    assert await everything(proxy, conversation, responses) == before
    await proxy.call("DELETE", f"/v1/conversations/{conversation}")
    again = await restore(proxy, text, "sk-mallory")
    assert again[:2] == (200, foreign[1])
    assert (await restore(proxy, text, "sk-bob"))[1]["id"] != foreign[1]["id"]


async def test_an_import_under_other_ids_has_them_everywhere(proxy: Proxy):
    conversation, responses = await converse(proxy)
    text = await export(proxy, conversation)
    _, restored, _ = await restore(proxy, text, "sk-bob")
    again = await export(proxy, restored["id"], "sk-bob")
    assert partition_of(conversation).encode() not in again
    lines, wanted = ([orjson.loads(line) for line in one.splitlines()] for one in (again, text))
    assert len(lines) == len(wanted)
    for response in responses:
        status, found = await proxy.call("GET", f"/v1/responses/{renamed(response, restored['id'])}", key="sk-bob")
        assert (status, found["id"]) == (200, renamed(response, restored["id"]))


async def test_a_file_that_hides_its_id_is_refused(proxy: Proxy):
    conversation, _ = await converse(proxy)
    text = (await export(proxy, conversation)).replace(b'"conv_', b'"con\\u0076_', 1)
    hidden = text.replace(partition_of(conversation).encode(), b"\\u0030" + b"0" * 15, 1)
    status, body, _ = await restore(proxy, hidden, "sk-mallory")
    assert (status, body["code"]) == (400, "invalid_import")


async def test_whoever_imports_is_the_owner_whatever_the_file_says(proxy: Proxy, start_proxy: StartProxy):
    conversation, responses = await converse(proxy)
    there = await start_proxy(redis={"prefix": "there"})
    head, rest = (await export(proxy, conversation)).split(b"\n", 1)
    text = orjson.dumps({**orjson.loads(head), "owner": "token:alice"}) + b"\n" + rest
    assert (await restore(there, text, "sk-bob"))[0] == 201
    assert (await there.call("GET", f"/v1/responses/{responses[0]}", key="sk-bob"))[0] == 200
    assert (await there.call("GET", f"/v1/conversations/{conversation}"))[0] == 404


async def test_a_file_that_is_cut_or_changed_is_refused_with_its_line_and_nothing_is_kept(
    proxy: Proxy, start_proxy: StartProxy
):
    conversation, _ = await converse(proxy)
    there = await start_proxy(redis={"prefix": "there"})
    text = await export(proxy, conversation)
    cut = b"".join(text.splitlines(keepends=True)[:9])
    for spoiled, line in ((cut, 10), (text.replace(b'"line":0', b'"line":-1', 1), 2), (b"", 1), (b"[]", 1)):
        status, body, _ = await restore(there, spoiled)
        assert (status, body["code"]) == (400, "invalid_import")
        assert f"line {line}:" in body["message"]
    assert [key async for key in there.redis.scan_iter("there:*") if b":layout:" not in key] == []


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl", "application/json", None])
async def test_json_lines_come_under_several_names(proxy: Proxy, kind: str | None):
    conversation, _ = await converse(proxy)
    assert (await restore(proxy, await export(proxy, conversation), kind=kind))[0] == 200


async def test_other_content_is_refused_and_compressed_content_is_taken(start_proxy: StartProxy):
    proxy = await start_proxy(server={"max_body_bytes": 20_000})
    conversation, _ = await converse(proxy)
    text = await export(proxy, conversation)
    assert (await restore(proxy, text, kind="text/csv"))[0] == 415
    packed = gzip.compress(text)
    assert (await restore(proxy, packed, **{"Content-Encoding": "gzip"}))[0] == 200
    assert (await restore(proxy, text, **{"Content-Encoding": "gzip"}))[1]["code"] == "invalid_body"
    assert (await restore(proxy, packed, **{"Content-Encoding": "br"}))[1]["code"] == "unsupported_content_encoding"
    bomb = gzip.compress(text + b"\n" * 20_000)
    assert (await restore(proxy, bomb, **{"Content-Encoding": "gzip"}))[0] == 413


async def test_two_imports_at_once_restore_it_once(proxy: Proxy, start_proxy: StartProxy):
    conversation, responses = await converse(proxy)
    there = await start_proxy(redis={"prefix": "there"})
    text = await export(proxy, conversation)
    answers = await asyncio.gather(*(restore(there, text) for _ in range(6)))
    assert {status for status, _, _ in answers} <= {200, 201}
    assert 201 in {status for status, _, _ in answers}
    assert await everything(there, conversation, responses) == await everything(proxy, conversation, responses)


# The command line


@pytest.fixture
def config(valkey_url: str) -> Config:
    """The configuration of a command beside the proxy."""
    return Config(redis=RedisConfig(url=Secret(valkey_url)))


@pytest.fixture
def elsewhere(valkey_url: str) -> Config:
    """The configuration of a command on another store."""
    return Config(redis=RedisConfig(url=Secret(valkey_url), prefix="elsewhere"))


async def export_to(folder: Path, config: Config, owner: str | None = None) -> int:
    return await run_export(config, Namespace(directory=folder, owner=owner, json=False))


async def import_from(config: Config, *paths: Path, owner: str | None = None) -> int:
    return await run_import(config, Namespace(paths=list(paths), owner=owner, json=False))


async def conversations_of(config: Config, owner: str) -> set[str]:
    async with open_store(config) as store:
        partitions = [one async for one in store.sweeper.partitions()]
        return {one.id for whose, one in await store.archive.identify(partitions) if whose == owner}


async def test_all_conversations_of_all_owners_go_to_files_and_come_back(
    proxy: Proxy, config: Config, elsewhere: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ids = {key: (await converse(proxy, key))[0] for key in ("sk-alice", "sk-bob")}
    gone, _ = await converse(proxy)
    await proxy.call("DELETE", f"/v1/conversations/{gone}")
    folder = tmp_path / "backup"
    assert await export_to(folder, config) == 0
    assert {path.name for path in folder.iterdir()} == {f"{one}.jsonl" for one in ids.values()}
    assert stat.S_IMODE(next(folder.iterdir()).stat().st_mode) == 0o600
    assert await import_from(elsewhere, folder) == 0
    owner = orjson.loads((folder / f"{ids['sk-alice']}.jsonl").read_bytes().split(b"\n")[0])["owner"]
    assert await conversations_of(elsewhere, owner) == {ids["sk-alice"]}
    assert await import_from(elsewhere, folder) == 0
    said = capsys.readouterr()
    lines = [line.rpartition(",")[0] for line in said.out.splitlines()]
    assert lines == [
        "exported 2 conversations, 0 unchanged, 0 failed",
        "imported 2 conversations, 0 unchanged, 0 failed",
        "imported 0 conversations, 2 unchanged, 0 failed",
    ]
    assert said.err == ""


async def test_an_export_is_gone_on_with_where_it_stopped(
    proxy: Proxy, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    same, changed, cut = [(await converse(proxy))[0] for _ in range(3)]
    await export_to(tmp_path, config)
    await proxy.call("POST", f"/v1/conversations/{changed}/items", {"items": [user("later")]})
    file = tmp_path / f"{cut}.jsonl"
    file.write_bytes(b"\n".join(file.read_bytes().splitlines()[:-1]) + b"\n")
    untouched = (tmp_path / f"{same}.jsonl").stat().st_mtime_ns
    (tmp_path / f"{same}.jsonl.part").write_bytes(b"left over")
    assert await export_to(tmp_path, config) == 0
    assert "exported 2 conversations, 1 unchanged, 0 failed" in capsys.readouterr().out
    assert (tmp_path / f"{same}.jsonl").stat().st_mtime_ns == untouched
    assert b"later" in (tmp_path / f"{changed}.jsonl").read_bytes()
    assert file.read_bytes().splitlines()[-1].startswith(b'{"kind":"end"')


async def test_one_owner_is_exported_and_another_one_may_get_it(
    proxy: Proxy, config: Config, elsewhere: Config, tmp_path: Path
):
    mine = (await converse(proxy))[0]
    foreign = (await converse(proxy, "sk-bob"))[0]
    await export_to(tmp_path / "all", config)
    owner = orjson.loads((tmp_path / "all" / f"{mine}.jsonl").read_bytes().split(b"\n")[0])["owner"]
    await export_to(tmp_path / "one", config, owner)
    assert [path.stem for path in (tmp_path / "one").iterdir()] == [mine]
    await import_from(elsewhere, tmp_path / "all" / f"{foreign}.jsonl", tmp_path / "one", owner="key:carol")
    assert await conversations_of(elsewhere, "key:carol") == {mine, foreign}


async def test_what_can_t_be_imported_is_listed_and_the_rest_is_done(
    proxy: Proxy, config: Config, elsewhere: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    conversation, _ = await converse(proxy)
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    (tmp_path / "b.jsonl").write_bytes(await export(proxy, conversation))
    missing = tmp_path / "missing.jsonl"
    await export_to(tmp_path, config)
    assert await import_from(elsewhere, tmp_path, missing) == 1
    assert await import_from(config, tmp_path / f"{conversation}.jsonl", owner="key:mallory") == 1
    said = capsys.readouterr()
    assert "imported 1 conversation, 0 unchanged, 3 failed" in said.out
    first, second, third, fourth = said.err.splitlines()
    assert first.startswith(f"branchline: {tmp_path / 'a.jsonl'}: line 1: ")
    assert second == f"branchline: {tmp_path / 'b.jsonl'}: it names no owner; give one with --owner"
    assert third == f"branchline: {missing}: No such file or directory"
    assert fourth.endswith(f"the id {conversation} is taken by something else in the store")


async def test_a_conversation_that_can_t_be_written_is_listed_and_the_rest_is_done(
    proxy: Proxy, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    blocked, free = [(await converse(proxy))[0] for _ in range(2)]
    (tmp_path / f"{blocked}.jsonl").mkdir()
    assert await export_to(tmp_path, config) == 1
    said = capsys.readouterr()
    assert "exported 1 conversation, 0 unchanged, 1 failed" in said.out
    assert said.err.startswith(f"branchline: {tmp_path / blocked}.jsonl: ")
    assert (tmp_path / f"{free}.jsonl").is_file()
    assert not (tmp_path / f"{blocked}.jsonl.part").exists()


async def test_a_store_that_can_t_be_reached_ends_both_commands_with_a_reason(tmp_path: Path):
    nowhere = Config(redis=RedisConfig(url=Secret(f"unix://{tmp_path / 'nowhere.sock'}")))
    with pytest.raises(UpkeepError, match="reached"):
        await export_to(tmp_path, nowhere)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UpkeepError, match="can't be written"):
        await export_to(tmp_path / "x", nowhere)


async def test_the_commands_run_as_processes(proxy: Proxy, valkey_url: str, tmp_path: Path):
    await new_conversation(proxy)
    variables = {"BRANCHLINE_REDIS_URL": valkey_url}
    told = []
    for arguments in (
        ["export", tmp_path / "folder"],
        ["export", tmp_path / "folder"],
        ["import", tmp_path / "folder"],
    ):
        done = await asyncio.to_thread(run, *arguments, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        told.append(done.stdout.rpartition(",")[0])
    assert told == [
        "exported 1 conversation, 0 unchanged, 0 failed",
        "exported 0 conversations, 1 unchanged, 0 failed",
        "imported 0 conversations, 1 unchanged, 0 failed",
    ]
