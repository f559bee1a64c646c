import pytest

from storage import (
    BranchNotFound,
    Conversation,
    ConversationNotFound,
    CursorNotFound,
    Entry,
    PageRequest,
    ResponseNotFound,
    Store,
    partition_of,
)
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    STRANGER,
    add,
    brought,
    draft,
    id_of,
    ids_in,
    reference,
    start,
    take_turn,
)

BOTH_ORDERS = pytest.mark.parametrize("ascending", [True, False], ids=["ascending", "descending"])


async def page_of(store: Store, conversation: Conversation, limit: int, after: str | None, *, ascending: bool):
    page = await store.items.list_page(OWNER, conversation.id, PageRequest(limit, after, ascending))
    return [id_of(item) for item in page.items], page.has_more


async def expect_every_page(store: Store, conversation: Conversation, ids: list[str], *, ascending: bool) -> None:
    """Check the page after every item, with every limit; `ids` are the conversation's, oldest first."""
    ordered = ids if ascending else ids[::-1]
    for i, after in enumerate([None, *ordered]):
        for limit in range(1, len(ids) + 2):
            rest = ordered[i:]
            page = await page_of(store, conversation, limit, after, ascending=ascending)
            assert page == (rest[:limit], len(rest) > limit), (after, limit)


async def scatter(store: Store) -> Conversation:
    """Return a conversation whose items lie in many spans: its own and those of side chains, in turn."""
    made = await start(store, "0", "1")
    response = await take_turn(store, conversation=made, says=["2"], answers=["3"])
    partition = partition_of(made.id)
    for i in range(3):
        await take_turn(store, previous=response, says=[], answers=[brought(f"msg_aside_{i}_{n}") for n in range(3)])
    for i in range(3):
        await add(store, made, *(reference(f"msg_aside_{i}_{n}") for n in (1, 2, 0)), f"after {i}")
    assert partition_of(made.id) == partition
    return made


@BOTH_ORDERS
async def test_every_page_of_one_segment(store: Store, ascending: bool):
    made = await start(store, *"abcdef")
    await expect_every_page(store, made, await ids_in(store, made), ascending=ascending)


@BOTH_ORDERS
async def test_every_page_over_deleted_items(store: Store, ascending: bool):
    made = await start(store, *"abcdefghij")
    ids = await ids_in(store, made)
    for i in (0, 3, 4, 5, 7, 9):
        await store.items.delete(OWNER, made.id, ids[i])
    await expect_every_page(store, made, [ids[i] for i in (1, 2, 6, 8)], ascending=ascending)


@BOTH_ORDERS
async def test_every_page_over_many_spans(store: Store, ascending: bool):
    made = await scatter(store)
    ids = await ids_in(store, made)
    assert len(ids) == len(set(ids)) == 16
    await expect_every_page(store, made, ids, ascending=ascending)


@BOTH_ORDERS
async def test_every_page_over_deleted_items_in_many_spans(store: Store, ascending: bool):
    made = await scatter(store)
    ids = await ids_in(store, made)
    for item_id in ids[::3]:
        await store.items.delete(OWNER, made.id, item_id)
    await expect_every_page(store, made, [one for one in ids if one not in ids[::3]], ascending=ascending)


@BOTH_ORDERS
async def test_the_whole_listing_page_by_page(store: Store, ascending: bool):
    made = await start(store, *map(str, range(50)))
    found: list[str] = []
    more = True
    while more:
        page, more = await page_of(store, made, 7, found[-1] if found else None, ascending=ascending)
        found += page
    ids = await ids_in(store, made)
    assert found == (ids if ascending else ids[::-1])


async def test_newest_first_is_the_default(store: Store):
    made = await start(store, *map(str, range(25)))
    page = await store.items.list_page(OWNER, made.id, PageRequest())
    assert [id_of(item) for item in page.items] == (await ids_in(store, made))[:4:-1]
    assert page.has_more


@BOTH_ORDERS
async def test_a_cursor_that_occurs_twice_means_its_last_occurrence_in_the_order_asked_for(
    store: Store, ascending: bool
):
    made = await start(store, "a")
    batch: list[str | Entry] = [brought("msg_x"), "b", brought("msg_x"), "c"]
    a, twice, _, _, c = [*await ids_in(store, made), *await add(store, made, *batch)]
    page, _ = await page_of(store, made, 10, twice, ascending=ascending)
    assert page == ([c] if ascending else [a])


@BOTH_ORDERS
@pytest.mark.parametrize("limit", range(1, 10))
async def test_paging_gets_on_where_items_occur_several_times(store: Store, ascending: bool, limit: int):
    made = await start(store, "a")
    x, y, z = (brought(f"msg_{name}") for name in "xyz")
    await add(store, made, x, y, x, "b", y, x)
    await add(store, made, z, z, "c")
    ids = await ids_in(store, made)
    found: list[str] = []
    more = True
    while more:
        page, more = await page_of(store, made, limit, found[-1] if found else None, ascending=ascending)
        assert len(page) >= min(limit, len(ids) - len(found))
        found += page
    assert found == (ids if ascending else ids[::-1])


@BOTH_ORDERS
@pytest.mark.parametrize("cursor", ["unknown", "deleted", "elsewhere", "aside"])
async def test_a_cursor_that_is_not_in_the_listing_is_refused(store: Store, cursor: str, ascending: bool):
    made, other = await start(store, "a", "b"), await start(store, "c")
    await take_turn(store, previous=await take_turn(store, conversation=made), answers=[brought("msg_aside")])
    deleted = (await ids_in(store, made))[1]
    await store.items.delete(OWNER, made.id, deleted)
    elsewhere = (await ids_in(store, other))[0]
    after = {"unknown": "msg_unknown", "deleted": deleted, "elsewhere": elsewhere, "aside": "msg_aside"}[cursor]
    with pytest.raises(CursorNotFound) as refused:
        await page_of(store, made, 10, after, ascending=ascending)
    assert refused.value.subject == after


async def test_the_page_after_the_last_item_is_empty_and_the_last(store: Store):
    made = await start(store, "a", "b")
    assert await page_of(store, made, 5, (await ids_in(store, made))[-1], ascending=True) == ([], False)


@BOTH_ORDERS
async def test_an_empty_conversation_has_an_empty_page(store: Store, ascending: bool):
    made = await start(store)
    assert await page_of(store, made, 20, None, ascending=ascending) == ([], False)
    only = (await add(store, made, "a"))[0]
    await store.items.delete(OWNER, made.id, only)
    assert await page_of(store, made, 20, None, ascending=ascending) == ([], False)


async def test_unknown_places_are_refused(store: Store):
    made = await start(store, "a")
    with pytest.raises(BranchNotFound) as branch:
        await store.items.list_page(OWNER, made.id, EVERYTHING, branch="draft")
    assert branch.value.subject == "draft"
    for owner, conversation in ((STRANGER, made), (OWNER, draft())):
        with pytest.raises(ConversationNotFound) as refused:
            await store.items.list_page(owner, conversation.id, EVERYTHING)
        assert refused.value.subject == conversation.id


@BOTH_ORDERS
async def test_every_page_of_a_responses_input(store: Store, ascending: bool):
    made = await scatter(store)
    response = await take_turn(store, conversation=made, says=["ask", "more"], answers=["not input"])
    await add(store, made, "later")
    ids = (await ids_in(store, made))[:18]
    ordered = ids if ascending else ids[::-1]
    for i, after in enumerate([None, *ordered]):
        for limit in (1, 2, 17, 18, 19):
            page = await store.responses.list_input(OWNER, response, PageRequest(limit, after, ascending))
            rest = ordered[i:]
            assert ([id_of(item) for item in page.items], page.has_more) == (rest[:limit], len(rest) > limit)


async def test_the_output_and_later_items_are_no_cursors_of_a_responses_input(store: Store):
    made = await start(store, "a")
    response = await take_turn(store, conversation=made)
    later = (await add(store, made, "later"))[0]
    output = id_of((await store.responses.read(OWNER, response)).output[0])
    for after in (output, later, "msg_unknown"):
        with pytest.raises(CursorNotFound):
            await store.responses.list_input(OWNER, response, PageRequest(after=after))


async def test_the_input_of_an_unknown_or_foreign_response_is_not_found(store: Store):
    response = await take_turn(store)
    for owner, response_id in ((STRANGER, response), (OWNER, response[:-4] + "0000"), (OWNER, "resp_unknown")):
        with pytest.raises(ResponseNotFound) as refused:
            await store.responses.list_input(owner, response_id, EVERYTHING)
        assert refused.value.subject == response_id
