import pytest
from redis.asyncio import Redis

from storage import (
    AlreadyThere,
    BranchNotFound,
    ConversationNotFound,
    Entry,
    ItemNotFound,
    Origin,
    PageRequest,
    Store,
    Unavailable,
    new_partition,
    partition_of,
)
from storage.client.scripts import Call
from storage.client.staging import Stage
from tests.storage.builders import (
    OWNER,
    STRANGER,
    add,
    brought,
    continue_from,
    history_of,
    id_of,
    ids_in,
    input_of,
    json_item,
    minted,
    open_turn,
    output_of,
    read_all,
    reference,
    start,
    store_on,
    take_turn,
    texts,
)
from tests.storage.inspection import keys_that_hold

# Appending


async def test_items_are_appended_and_answered_in_request_order(store: Store):
    made = await start(store, "one")
    entries = [
        minted(partition_of(made.id), "two"),
        brought("msg_mine", "three"),
        minted(partition_of(made.id), "four"),
    ]
    assert texts(await store.items.append(OWNER, made.id, "", entries)) == ["two", "three", "four"]
    assert await read_all(store, made) == ["one", "two", "three", "four"]


async def test_a_known_id_stands_for_the_stored_item(store: Store):
    made = await start(store)
    response = await take_turn(store, conversation=made)
    await take_turn(store, previous=response, answers=[brought("msg_aside", "original")])
    answer = await store.items.append(OWNER, made.id, "", [brought("msg_aside", "changed")])
    assert texts(answer) == ["original"]
    assert await read_all(store, made) == ["question", "answer", "original"]


async def test_a_reference_stands_for_the_stored_item(store: Store):
    made = await start(store)
    aside = await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside")])
    assert texts(await store.items.append(OWNER, made.id, "", [reference("msg_aside")])) == ["brought"]
    assert await read_all(store, made) == ["question", "answer", "brought"]
    assert await continue_from(store, aside) == ["question", "answer", "question", "brought"]


@pytest.mark.parametrize("refused", ["unknown", "already there"])
async def test_a_batch_with_one_bad_item_appends_nothing(redis: Redis, store: Store, refused: str):
    made = await start(store, "one")
    known = (await ids_in(store, made))[0]
    bad = reference("msg_unknown") if refused == "unknown" else brought(known)
    before = await store.conversations.read(OWNER, made.id)
    for entries in ([bad, brought("msg_new")], [brought("msg_new"), bad]):
        with pytest.raises(ItemNotFound if refused == "unknown" else AlreadyThere) as error:
            await add(store, made, *entries)
        assert error.value.subject == bad.id
    assert await read_all(store, made) == ["one"]
    assert await store.conversations.read(OWNER, made.id) == before
    assert await keys_that_hold(redis, b"msg_new") == []


async def test_an_unknown_reference_is_told_before_an_item_that_is_already_there(store: Store):
    made = await start(store, "one")
    known = (await ids_in(store, made))[0]
    with pytest.raises(ItemNotFound):
        await add(store, made, brought(known), reference("msg_unknown"))


async def test_an_item_is_already_there_by_reference_too(store: Store):
    made = await start(store, "one")
    with pytest.raises(AlreadyThere):
        await add(store, made, reference((await ids_in(store, made))[0]))


async def test_a_known_id_twice_in_one_call_makes_two_occurrences(store: Store):
    made = await start(store)
    await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside")])
    twice = [brought("msg_aside"), minted(partition_of(made.id), "between"), reference("msg_aside")]
    assert texts(await store.items.append(OWNER, made.id, "", twice)) == ["brought", "between", "brought"]
    assert (await read_all(store, made))[2:] == ["brought", "between", "brought"]
    with pytest.raises(AlreadyThere):
        await add(store, made, brought("msg_aside"))


async def test_a_new_id_twice_in_one_call_makes_two_occurrences_of_the_first(store: Store):
    made = await start(store)
    twice = [brought("msg_mine", "first"), brought("msg_mine", "second")]
    assert texts(await store.items.append(OWNER, made.id, "", twice)) == ["first", "first"]
    assert await read_all(store, made) == ["first", "first"]


async def test_an_unknown_branch_is_refused_by_name(store: Store):
    made = await start(store)
    with pytest.raises(BranchNotFound) as refused:
        await store.items.append(OWNER, made.id, "draft", [brought("msg_mine")])
    assert refused.value.subject == "draft"


@pytest.mark.parametrize("name", ["", "MAIN", "main", "Main"])
async def test_the_main_branch_has_these_names(store: Store, name: str):
    made = await start(store)
    await store.items.append(OWNER, made.id, name, [brought("msg_mine")])
    assert await read_all(store, made) == ["brought"]


async def test_an_append_that_arrives_twice_appends_once_and_answers_the_same(store: Store):
    made = await start(store, "one")
    keys = store.items._keyspace.keys(made.id)
    entries = [minted(partition_of(made.id), "two"), brought("msg_mine")]
    arguments = Stage(store.items._keyspace, keys, "same", entries).arguments
    call = Call("append_items", [*keys.common, keys.commit("same")], [OWNER, made.id, "", 120, 0, *arguments])
    first = await store.items._scripts.run(call)
    assert await store.items._scripts.run(call) == first
    assert await read_all(store, made) == ["one", "two", "brought"]


async def test_twenty_thousand_items_are_appended_at_once(store: Store):
    made = await start(store)
    wanted = [str(i) for i in range(20_000)]
    await add(store, made, *wanted)
    assert await read_all(store, made) == wanted


# Reading


async def test_an_item_is_read_by_id(store: Store):
    made = await start(store, "one", "two")
    for item_id, text in zip(await ids_in(store, made), ["one", "two"], strict=True):
        assert await store.items.read(OWNER, made.id, item_id) == json_item(item_id, text)


async def test_an_item_of_another_place_is_not_found_in_the_conversation(store: Store):
    made, other = await start(store, "one"), await start(store, "two")
    await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside")])
    for item_id in ("msg_unknown", "msg_aside", (await ids_in(store, other))[0]):
        for call in (store.items.read, store.items.delete):
            with pytest.raises(ItemNotFound) as refused:
                await call(OWNER, made.id, item_id)
            assert refused.value.subject == item_id


async def test_items_are_resolved_from_any_partition(store: Store):
    made, other = await start(store, "one"), await start(store, "two")
    response = await take_turn(store, answers=["three"])
    theirs = await start(store, "four", owner=STRANGER)
    answer = (await store.responses.read(OWNER, response)).output[0]
    wanted = [*await ids_in(store, made), *await ids_in(store, other), id_of(answer)]
    strange = [id_of(item) for item in (await store.items.list_page(STRANGER, theirs.id, PageRequest())).items]
    known = await store.items.resolve(OWNER, [*wanted, *strange, "msg_unknown", wanted[0]])
    assert {item_id: texts([one.data])[0] for item_id, one in known.items()} == dict(
        zip(wanted, ["one", "two", "three"], strict=True)
    )
    assert await store.items.resolve(OWNER, []) == {}


async def test_a_turn_resolves_items_of_other_partitions_and_of_its_own(store: Store):
    made, other = await start(store, "one"), await start(store, "two")
    await add(store, made, brought("msg_made_up", "three"))
    await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside", "four")])
    here, there = (await ids_in(store, made))[0], (await ids_in(store, other))[0]
    asked = [there, here, "msg_made_up", "msg_aside", "msg_unknown", here]
    opened = await open_turn(store, conversation=made, item_ids=asked)
    assert {one: (texts([item.data])[0], item.in_history) for one, item in opened.known.items()} == {
        here: ("one", True),
        there: ("two", False),
        "msg_made_up": ("three", True),
        "msg_aside": ("four", False),
    }


async def test_a_turn_on_nothing_resolves_items_all_the_same(store: Store):
    made = await start(store, "one")
    item_id = (await ids_in(store, made))[0]
    opened = await open_turn(store, item_ids=[item_id, "msg_unknown"])
    assert list(opened.known) == [item_id]
    assert (await open_turn(store, owner=STRANGER, item_ids=[item_id])).known == {}


# Deleting


async def test_a_deleted_item_is_gone_from_every_key(redis: Redis, store: Store):
    made = await start(store, "before", "a secret", "after")
    item_id = (await ids_in(store, made))[1]
    response = await take_turn(store, conversation=made)
    await store.items.delete(OWNER, made.id, item_id)
    assert await keys_that_hold(redis, b"a secret") == []
    assert await keys_that_hold(redis, item_id.encode()) == []
    assert await read_all(store, made) == ["before", "after", "question", "answer"]
    assert await input_of(store, response) == ["before", "after", "question"]
    assert await continue_from(store, response) == ["before", "after", "question", "answer"]
    assert await store.items.resolve(OWNER, [item_id]) == {}


async def test_deleting_an_item_leaves_ids_and_order_of_the_others(store: Store):
    made = await start(store, *"abcdef")
    before = await ids_in(store, made)
    for i in (4, 0, 2):
        await store.items.delete(OWNER, made.id, before[i])
    assert await ids_in(store, made) == [before[i] for i in (1, 3, 5)]
    await add(store, made, "g")
    assert await read_all(store, made) == ["b", "d", "f", "g"]


async def test_deleting_answers_the_conversation_as_it_is_now(store: Store):
    made = await start(store, "one", title="t", metadata={"a": "b"})
    answer = await store.items.delete(OWNER, made.id, (await ids_in(store, made))[0])
    assert answer == await store.conversations.read(OWNER, made.id)


async def test_an_item_is_deleted_once(store: Store):
    made = await start(store, "one")
    item_id = (await ids_in(store, made))[0]
    await store.items.delete(OWNER, made.id, item_id)
    for call in (store.items.delete, store.items.read):
        with pytest.raises(ItemNotFound):
            await call(OWNER, made.id, item_id)
    with pytest.raises(ItemNotFound):
        await add(store, made, reference(item_id))


async def test_deleting_an_item_removes_all_its_occurrences(store: Store):
    made = await start(store, "one")
    await add(store, made, brought("msg_twice"), "two", brought("msg_twice"))
    await store.items.delete(OWNER, made.id, "msg_twice")
    assert await read_all(store, made) == ["one", "two"]


async def test_the_id_of_a_deleted_item_can_be_brought_again(store: Store):
    made = await start(store, "one")
    await add(store, made, brought("msg_mine", "old"), "two")
    await store.items.delete(OWNER, made.id, "msg_mine")
    await add(store, made, brought("msg_mine", "new"))
    assert await read_all(store, made) == ["one", "two", "new"]
    assert texts([await store.items.read(OWNER, made.id, "msg_mine")]) == ["new"]


async def test_an_output_item_that_is_deleted_is_gone_from_its_response(store: Store):
    made = await start(store)
    response = await take_turn(store, conversation=made, answers=["kept", "deleted"])
    await store.items.delete(OWNER, made.id, (await ids_in(store, made))[2])
    assert await output_of(store, response) == ["kept"]


async def test_an_item_shared_with_a_side_chain_is_deleted_there_too(store: Store):
    made = await start(store)
    aside = await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside")])
    await add(store, made, reference("msg_aside"))
    await store.items.delete(OWNER, made.id, "msg_aside")
    assert await read_all(store, made) == ["question", "answer"]
    assert await output_of(store, aside) == []
    assert await continue_from(store, aside) == ["question", "answer", "question"]


async def test_an_id_that_outlived_its_bytes_is_taken_for_a_new_one(redis: Redis, store: Store):
    made = await start(store)
    aside = await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside")])
    await store.responses.delete(OWNER, aside)
    await redis.delete(f"test:{{{partition_of(made.id)}}}:segment:1")
    assert history_of(await open_turn(store, conversation=made, item_ids=["msg_aside"])) == ["question", "answer"]
    await add(store, made, brought("msg_aside", "new"))
    assert await read_all(store, made) == ["question", "answer", "new"]
    await store.items.delete(OWNER, made.id, "msg_aside")
    assert await read_all(store, made) == ["question", "answer"]


async def test_an_item_may_be_any_bytes(store: Store):
    made = await start(store)
    data = b'{"id":"msg_x","type":"message",' + bytes(range(256)) + b'{"a":[]}'
    await store.items.append(OWNER, made.id, "", [Entry(Origin.MINTED, "msg_x", data)])
    assert (await store.items.read(OWNER, made.id, "msg_x")) == data


def test_ids_made_up_by_clients_lead_to_some_partition():
    assert len(partition_of("msg_mine")) == len(new_partition())


async def test_what_was_done_is_told_as_done_though_the_listing_could_not_be_told(
    valkey: Redis, valkey_url: str, valkey_store: Store
):
    conversation = await start(valkey_store, "one")
    # all but the keys of owners
    await valkey.acl_setuser("half", enabled=True, nopass=True, keys=["test:{*", "test:layout:*"], categories=["+@all"])
    async with Redis.from_url(valkey_url, username="half", password="any") as client, store_on(client) as store:
        added = await add(store, conversation, "two", "three")
        await store.items.delete(OWNER, conversation.id, added[0])
        await store.branches.update(OWNER, conversation.id, "MAIN", description="said")
        assert await read_all(valkey_store, conversation) == ["one", "three"]
        with pytest.raises(Unavailable) as unsure:
            await store.conversations.update(OWNER, conversation.id, {"project_id": "p"})
        assert unsure.value.unsure
        await store.conversations.delete(OWNER, conversation.id)
    with pytest.raises(ConversationNotFound):
        await valkey_store.conversations.read(OWNER, conversation.id)
    await valkey.acl_deluser("half")
    # the listing drops what is gone when it is read later
    await valkey.flushall()
