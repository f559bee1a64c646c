import re
from importlib import resources

import pytest
from redis.asyncio import Redis

from storage import ConversationNotFound, Store
from storage.client.scripts import PRELUDES, Call, load_scripts
from storage.errors import REFUSALS
from tests.storage.builders import OWNER, add, read_all, start, take_turn
from tests.storage.everything import use_everything

LUA = resources.files("storage") / "lua"
FILES = {
    path.name.removesuffix(".lua"): path.read_text("utf-8") for folder in LUA.iterdir() for path in folder.iterdir()
}
PRELUDE_FILES = {name for names in PRELUDES.values() for name in names}


def header_of(text: str) -> str:
    return "\n".join(line for line in re.split(r"\n(?!--)", text, maxsplit=1)[0].splitlines())


def test_every_lua_file_is_a_script_or_the_prelude_of_one():
    assert set(FILES) == set(PRELUDES) | PRELUDE_FILES


@pytest.mark.parametrize("name", sorted(PRELUDES))
def test_a_script_opens_with_its_name_keys_arguments_and_returns(name: str):
    header = header_of(FILES[name])
    assert header.startswith(f"-- {name}: ")
    assert re.findall(r"^-- (KEYS|ARGV|Returns)\b", header, re.MULTILINE) == ["KEYS", "ARGV", "Returns"]


@pytest.mark.parametrize("name", sorted(PRELUDE_FILES))
def test_a_prelude_opens_with_what_it_is_put_before(name: str):
    assert header_of(FILES[name]).startswith("-- Put before ")


@pytest.mark.parametrize("name", sorted(PRELUDES))
def test_the_header_names_every_refusal_of_a_script(name: str):
    body = FILES[name].removeprefix(header_of(FILES[name]))
    refusals = set(re.findall(rf"'({'|'.join(refusal.decode() for refusal in REFUSALS)}|exists)'", body))
    header = header_of(FILES[name])
    if "what\n-- fork_branch refuses" in header:
        header += header_of(FILES["fork_branch"])
    assert {refusal for refusal in refusals if refusal not in header} == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_script_parses_items(name: str):
    assert "cjson" not in FILES[name]


async def test_the_server_knows_a_script_by_the_hash_that_is_sent(redis: Redis):
    for script in load_scripts().values():
        sha = await redis.script_load(script.source)
        assert (sha.decode() if isinstance(sha, bytes) else sha) == script.sha


async def test_a_script_that_the_server_forgot_is_sent_again(redis: Redis, store: Store):
    conversation = await start(store, "one")
    await redis.script_flush()
    await add(store, conversation, "two")
    await redis.script_flush()
    assert await read_all(store, conversation) == ["one", "two"]


async def test_scripts_that_the_server_forgot_are_sent_again_in_a_pipeline(redis: Redis, store: Store):
    conversation = await start(store)
    await redis.script_flush()
    await take_turn(store, conversation=conversation)
    await redis.script_flush()
    assert await read_all(store, conversation) == ["question", "answer"]


async def test_in_a_pipeline_one_refusal_leaves_the_other_answers_alone(store: Store):
    conversation = await start(store)
    scripts = store.conversations._scripts

    def read(partition: str, conversation_id: str) -> Call:
        keys = [f"test:{{{partition}}}:partition", f"test:{{{partition}}}:conversation"]
        return Call("read_conversation", keys, [OWNER, conversation_id], conversation_id)

    known = read(conversation.id[-16:], conversation.id)
    refused, answered = await scripts.run_all([read("0" * 16, "conv_unknown"), known])
    assert isinstance(refused, ConversationNotFound)
    assert refused.subject == "conv_unknown"
    assert isinstance(answered, list)


async def test_no_calls_have_no_answers(store: Store):
    assert await store.conversations._scripts.run_all([]) == []


async def test_every_script_runs_on_this_server(redis: Redis, store: Store):
    await use_everything(store)
