"""What people look at: graphs of branches, windows of items, heads of conversations, where an id is."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest

from storage import (
    AlreadyThere,
    BranchNotFound,
    CommitMode,
    Conversation,
    ConversationNotFound,
    CursorNotFound,
    Fork,
    ForkPoint,
    ItemNotFound,
    PlacedItem,
    Store,
    Window,
    WindowRequest,
    new_partition,
    partition_of,
)
from storage.views.shapes import MAX_SHOWN_BYTES
from tests.depth import few
from tests.storage.builders import (
    EVERYTHING,
    OWNER,
    STRANGER,
    add,
    draft,
    id_of,
    ids_in,
    json_item,
    minted,
    open_turn,
    reference,
    start,
    take_named_turn,
    take_turn,
    texts,
)


async def fork(store: Store, conversation: Conversation, point: ForkPoint, target: str, name: str, *says: str) -> None:
    entries = [minted(partition_of(conversation.id), one) for one in says]
    await store.branches.create(OWNER, conversation.id, "", Fork(point, target, name), entries)


def shown(window: Window) -> list[str]:
    return [texts([item.data])[0] if item.data else "-" for item in window.items]


async def see(store: Store, conversation: Conversation, **facts: str | int) -> Window:
    return await store.items.window(OWNER, conversation.id, WindowRequest(**facts))  # type: ignore[arg-type]


# Graphs


async def test_a_graph_has_the_chains_of_all_branches_newest_use_first(store: Store):
    made = await start(store, "one", "two", "three")
    first, second, _ = await ids_in(store, made)
    await fork(store, made, ForkPoint.AFTER, second, "draft", "on draft")
    await fork(store, made, ForkPoint.AFTER, first, "early")
    await add(store, made, "four")
    await store.items.delete(OWNER, made.id, second)
    graph = await store.branches.graph(OWNER, made.id)
    chains = {branch.name: (branch.line, branch.chain, branch.item_count) for branch in graph.branches}
    assert chains == {
        "MAIN": (0, [(0, 0, 4)], 3),
        "draft": (1, [(0, 0, 2), (1, 0, 1)], 2),
        "early": (2, [(0, 0, 1)], 1),
    }
    assert (graph.active_branch, graph.more, graph.tombstones) == ("MAIN", 0, [(0, 1)])
    used = [(branch.updated_at, branch.line) for branch in graph.branches]
    assert used == sorted(used, reverse=True)
    by_name = {branch.name: branch for branch in graph.branches}
    assert (by_name["draft"].parent, by_name["draft"].forked_from, by_name["draft"].running) == (0, second, None)
    assert by_name["MAIN"].parent is None


async def test_a_graph_of_many_branches_keeps_main_and_the_active_one_and_tells_how_many_more(store: Store):
    made = await start(store, "one")
    target = (await ids_in(store, made))[0]
    for i in range(6):
        await fork(store, made, ForkPoint.AFTER, target, f"b{i}")
    await store.branches.activate(OWNER, made.id, "b0")
    graph = await store.branches.graph(OWNER, made.id, 3)
    names = {branch.name for branch in graph.branches}
    assert {"MAIN", "b0"} < names
    assert (len(names), graph.more) == (3, 4)


async def test_a_graph_tells_what_runs(store: Store):
    made = await start(store, "one")
    await open_turn(store, conversation=made, token="resp_1/secret")
    (main,) = (await store.branches.graph(OWNER, made.id)).branches
    assert main.running == "resp_1"
    assert (await see(store, made)).running == "resp_1"
    assert (await store.conversations.heads(OWNER, [made.id]))[made.id].running == "resp_1"


# Windows


async def test_a_window_is_at_the_tip_and_pages_both_ways(store: Store):
    made = await start(store, *(f"{i}" for i in range(10)))
    tip = await see(store, made, limit=4)
    assert (shown(tip), tip.first, tip.length, tip.earlier, tip.later) == (["6", "7", "8", "9"], 6, 10, 6, 0)
    assert tip.after == ""
    before = await see(store, made, limit=4, before=tip.before)
    assert (shown(before), before.earlier, before.later) == (["2", "3", "4", "5"], 2, 4)
    assert shown(await see(store, made, limit=4, after=before.after)) == ["6", "7", "8", "9"]
    start_of_all = await see(store, made, limit=4, before=before.before)
    assert (shown(start_of_all), start_of_all.before) == (["0", "1"], "")


async def test_paging_over_forks_and_deletions_shows_every_place_once(store: Store):
    made = await start(store, *(f"{i}" for i in range(7)))
    items = await ids_in(store, made)
    await fork(store, made, ForkPoint.AFTER, items[4], "b", "b5", "b6")
    await store.branches.activate(OWNER, made.id, "b")
    await store.items.delete(OWNER, made.id, items[2])
    expected = ["0", "1", "-", "3", "4", "b5", "b6"]
    seen: list[str] = []
    cursor = ""
    while True:
        window = await see(store, made, limit=2, before=cursor)
        assert [item.number for item in window.items] == list(range(window.first, window.first + len(window.items)))
        assert window.earlier == len([one for one in expected[: window.first] if one != "-"])
        seen = shown(window) + seen
        cursor = window.before
        if not cursor:
            break
    assert seen == expected
    assert (window.branch, window.line, window.active_branch) == ("b", 1, "b")


async def test_a_window_around_an_item_is_on_whichever_branch_has_it(store: Store):
    made = await start(store, *(f"{i}" for i in range(10)))
    items = await ids_in(store, made)
    await fork(store, made, ForkPoint.AFTER, items[4], "b", "b5")
    window = await see(store, made, around=items[5], limit=4)
    assert (shown(window), window.branch) == (["3", "4", "5", "6"], "MAIN")
    b5 = id_of((await see(store, made, branch="b", limit=1)).items[0].data)
    window = await see(store, made, around=b5, limit=4)
    assert (shown(window), window.branch) == (["2", "3", "4", "b5"], "b")
    assert shown(await see(store, made, around=items[0], branch="b", limit=2)) == ["0", "1"]
    with pytest.raises(ItemNotFound):
        await see(store, made, around=items[6], branch="b")


async def test_a_window_shows_a_branch_as_it_was(store: Store):
    made = await start(store, "0")
    response = await take_turn(store, conversation=made)
    await add(store, made, "later")
    assert shown(await see(store, made, at=response)) == ["0", "question", "answer"]
    items = await ids_in(store, made)
    assert shown(await see(store, made, at=items[1])) == ["0", "question"]


async def test_a_window_has_the_appends_that_made_it_with_their_responses(store: Store):
    made = await start(store, "0")
    first = await take_named_turn(store, conversation=made)
    await add(store, made, "by hand")
    second = await take_named_turn(store, conversation=made)
    window = await see(store, made)
    assert [(one.segment, one.end, one.response_id, one.model) for one in window.appends] == [
        (0, 1, None, ""),
        (0, 3, first, "m-1"),
        (0, 4, None, ""),
        (0, 6, second, "m-1"),
    ]
    assert first.encode() in window.appends[1].body
    assert window.appends[1].status == "completed"
    # the append of a window's last item may end behind it
    part = await see(store, made, around=window.items[1].id, limit=1)
    assert [one.response_id for one in part.appends] == [first]
    await store.responses.delete(OWNER, first)
    gone = (await see(store, made)).appends[1]
    assert (gone.response_id, gone.status, gone.body, gone.created_at) == (first, "", b"", None)


async def test_of_a_long_item_a_window_shows_the_beginning(store: Store):
    made = await start(store)
    long = minted(partition_of(made.id), "x" * MAX_SHOWN_BYTES)
    await store.items.append(OWNER, made.id, "", [long])
    (item,) = (await see(store, made)).items
    assert (item.is_cut, item.size, item.id, len(item.data)) == (True, len(long.data), long.id, 2048)
    (scanned,) = (await store.items.scan(OWNER, made.id)).items
    assert (scanned.size, scanned.is_cut) == (len(long.data), True)


async def test_an_item_that_is_twice_on_a_branch_does_not_hold_paging_up(store: Store):
    made = await start(store, "0", "1")
    items = await ids_in(store, made)
    again = minted(partition_of(made.id), "2")
    await store.branches.create(OWNER, made.id, "", Fork(ForkPoint.AFTER, items[0], "b"), [again])
    window = await see(store, made, branch="b", limit=1)
    assert (shown(window), window.first) == (["2"], 1)
    assert shown(await see(store, made, branch="b", limit=1, before=window.before)) == ["0"]


@pytest.mark.parametrize("cursor", ["x", "9.9.9", "0.7.0", "0.1"])
async def test_a_cursor_that_is_none_is_refused(store: Store, cursor: str):
    made = await start(store, "0", "1")
    with pytest.raises(CursorNotFound):
        await see(store, made, before=cursor)
    with pytest.raises(CursorNotFound):
        await see(store, made, after=cursor)


async def test_an_empty_branch_is_an_empty_window(store: Store):
    made = await start(store)
    window = await see(store, made)
    assert (window.items, window.length, window.before, window.after) == ([], 0, "", "")
    with pytest.raises(BranchNotFound):
        await see(store, made, branch="none")


# Excerpts, items, scans


def message(item_id: str, role: str, text: str) -> bytes:
    return f'{{"id":"{item_id}","type":"message","role":"{role}","content":"{text}"}}'.encode()


async def talk(store: Store, *roles: str) -> Conversation:
    made = draft()
    partition = partition_of(made.id)
    entries = []
    for number, role in enumerate(roles):
        entry = minted(partition, "")
        is_message = role in {"user", "assistant"}
        entry.data = message(entry.id, role, f"{role} {number}") if is_message else json_item(entry.id, role)
        entries.append(entry)
    conversation, _ = await store.conversations.create(OWNER, made, entries)
    return conversation


async def test_excerpts_are_of_the_first_message_of_a_span(store: Store):
    made = await talk(store, "tool", "user", "assistant", "tool")
    excerpts = await store.items.excerpts(OWNER, made.id, [(0, 0, 4), (0, 2, 4), (0, 3, 4), (0, 4, 9), (7, 0, 5)])
    ids = await ids_in(store, made)
    assert [one and one.id for one in excerpts] == [ids[1], ids[2], ids[3], None, None]


async def test_an_item_is_located_with_its_branch_and_what_brought_it(store: Store):
    made = await start(store, "0")
    response = await take_named_turn(store, conversation=made)
    items = await ids_in(store, made)
    await fork(store, made, ForkPoint.AFTER, items[0], "b", "only b")
    located = await store.items.locate(OWNER, made.id, items[2])
    assert (located.places, located.branch, located.response_id, located.model) == ([(0, 2)], "MAIN", response, "m-1")
    assert (await store.items.locate(OWNER, made.id, items[0])).response_id is None
    only_b = (await see(store, made, branch="b")).items[-1].id
    assert (await store.items.locate(OWNER, made.id, only_b)).branch == "b"
    await store.branches.delete(OWNER, made.id, "b")
    with pytest.raises(ItemNotFound):
        await store.items.locate(OWNER, made.id, only_b)


async def test_a_scan_has_every_living_item_of_every_branch_once(store: Store):
    made = await start(store, *(f"{i}" for i in range(30)))
    items = await ids_in(store, made)
    await fork(store, made, ForkPoint.AFTER, items[3], "b", "b4", "b5")
    await take_turn(store, previous=await take_turn(store, conversation=made))
    await store.items.delete(OWNER, made.id, items[1])
    seen, after, pages = [], None, 0
    while True:
        scan = await store.items.scan(OWNER, made.id, after, limit_bytes=500)
        seen += texts([item.data for item in scan.items])
        pages += 1
        if scan.after is None:
            break
        after = scan.after
    assert seen == ["0", *(f"{i}" for i in range(2, 30)), "question", "answer", "b4", "b5"]
    assert pages > 2


# Heads and ids


async def test_heads_show_the_first_and_the_last_message_of_many_conversations(store: Store):
    made = await talk(store, "assistant", "user", "tool", "assistant", "tool")
    other = await start(store)
    heads = await store.conversations.heads(OWNER, [made.id, draft().id, other.id])
    assert set(heads) == {made.id, other.id}
    head, ids = heads[made.id], await ids_in(store, made)
    assert head.first is not None
    assert head.last is not None
    assert (head.first.id, head.last.id, head.item_count, head.branch_count) == (ids[1], ids[3], 5, 1)
    assert (heads[other.id].first, heads[other.id].last, heads[other.id].model) == (None, None, "")
    await take_named_turn(store, conversation=other)
    assert (await store.conversations.heads(OWNER, [other.id]))[other.id].model == "m-1"


async def test_an_id_leads_to_its_conversation_and_branch(store: Store):
    made = await start(store, "0")
    response = await take_named_turn(store, conversation=made)
    items = await ids_in(store, made)
    await fork(store, made, ForkPoint.AFTER, items[0], "b", "only b")
    aside = await take_named_turn(store, previous=response)
    failed = await take_turn(store, conversation=made, mode=CommitMode.RECORD, status="failed", answers=[])

    async def find(some_id: str) -> tuple[str | None, ...]:
        found = await store.items.find(OWNER, some_id)
        return found.kind, found.conversation_id, found.branch, found.response_id

    assert await find(made.id) == ("conversation", made.id, "MAIN", None)
    assert await find(response) == ("response", made.id, "MAIN", response)
    assert await find(items[2]) == ("item", made.id, "MAIN", response)
    assert await find((await see(store, made, branch="b")).items[-1].id) == ("item", made.id, "b", None)
    assert await find(aside) == ("response", None, None, aside)
    assert await find(failed) == ("response", None, None, failed)
    alone = await take_turn(store)
    item = id_of((await store.responses.read(OWNER, alone)).output[0])
    assert await find(item) == ("item", None, None, None)
    with pytest.raises(ItemNotFound):
        await find("resp_unknown")


async def test_what_is_foreign_deleted_or_unknown_is_not_there(store: Store):
    made = await start(store, "0")
    response = await take_turn(store, conversation=made)
    items = await ids_in(store, made)

    async def expect_nothing(owner: str, conversation_id: str) -> None:
        for read in (
            store.branches.graph(owner, conversation_id),
            store.items.window(owner, conversation_id, WindowRequest()),
            store.items.excerpts(owner, conversation_id, [(0, 0, 1)]),
            store.items.locate(owner, conversation_id, items[0]),
            store.items.scan(owner, conversation_id),
        ):
            with pytest.raises(ConversationNotFound):
                await read
        assert await store.conversations.heads(owner, [conversation_id]) == {}

    await expect_nothing(STRANGER, made.id)
    await expect_nothing(OWNER, draft(new_partition()).id)
    for some_id in (made.id, response, items[0]):
        with pytest.raises(ItemNotFound):
            await store.items.find(STRANGER, some_id)
    await store.conversations.delete(OWNER, made.id)
    await expect_nothing(OWNER, made.id)
    for some_id in (made.id, items[0]):
        with pytest.raises(ItemNotFound):
            await store.items.find(OWNER, some_id)


# Listings


async def test_the_newest_conversations_come_with_when_that_was(store: Store):
    one, other = await start(store, "1"), await start(store, "2")
    await add(store, one, "3")
    newest = await store.conversations.newest(OWNER)
    assert [conversation_id for conversation_id, _ in newest] == [one.id, other.id]
    assert newest[0][1] > newest[1][1]
    assert await store.conversations.newest(STRANGER) == []


# Whatever was done


async def grow(store: Store, made: Conversation, dice: Random) -> None:
    """Do something to a conversation that changes what its branches have."""
    branches = (await store.branches.list_page(OWNER, made.id, EVERYTHING)).branches
    branch = dice.choice(branches).name
    items = (await store.items.list_page(OWNER, made.id, EVERYTHING, branch=branch)).items
    target = id_of(dice.choice(items)) if items else ""
    match dice.randrange(6):
        case 0 | 1:
            new = [minted(partition_of(made.id), f"{dice.random()}") for _ in range(dice.randint(1, 4))]
            await store.items.append(OWNER, made.id, branch, new)
        case 2 if target:
            point = dice.choice([ForkPoint.AFTER, ForkPoint.BEFORE, ForkPoint.WITHOUT])
            fork = Fork(point, target, f"b{dice.random()}")
            await store.branches.create(OWNER, made.id, branch, fork, [minted(partition_of(made.id), "own")])
        case 3 if target and len(items) > 2:
            await store.items.delete(OWNER, made.id, target)
        case 4:
            await store.branches.activate(OWNER, made.id, branch)
        case 5 if target:
            # what another branch has comes to this one by reference
            other = dice.choice(branches).name
            if any(id_of(one) != target for one in items) and other != branch:
                with suppress(AlreadyThere):
                    await store.items.append(OWNER, made.id, other, [reference(target)])
        case _:
            await take_turn(store, conversation=made)


async def all_windows(store: Store, made: Conversation, branch: str, dice: Random) -> list[PlacedItem]:
    """Walk a branch from its tip to its beginning and back; what is seen both ways must be the same."""
    window = await store.items.window(OWNER, made.id, WindowRequest(branch, limit=dice.randint(1, 5)))
    seen = list(window.items)
    while window.before:
        wanted = WindowRequest(branch, before=window.before, limit=dice.randint(1, 5))
        window = await store.items.window(OWNER, made.id, wanted)
        seen = [*window.items, *seen]
    again = list(window.items)
    while window.after:
        wanted = WindowRequest(branch, after=window.after, limit=dice.randint(1, 5))
        window = await store.items.window(OWNER, made.id, wanted)
        again += window.items
        living = [item for item in again if item.data]
        assert window.earlier + len([item for item in window.items if item.data]) == len(living)
    assert again == seen
    return seen


@pytest.mark.parametrize("seed", few(range(12), 4))
async def test_windows_and_graphs_show_what_the_branches_have_whatever_was_done(store: Store, seed: int):
    dice = Random(seed)
    made = await start(store, "0", "1")
    for _ in range(25):
        await grow(store, made, dice)
    graph = await store.branches.graph(OWNER, made.id)
    gone = set(graph.tombstones)
    everything: set[tuple[int, int]] = set()
    for branch in graph.branches:
        listed = (await store.items.list_page(OWNER, made.id, EVERYTHING, branch=branch.name)).items
        seen = await all_windows(store, made, branch.name, dice)
        assert [item.data for item in seen if item.data] == list(listed)
        assert [item.number for item in seen] == list(range(len(seen)))
        places = [(segment, offset) for segment, first, stop in branch.chain for offset in range(first, stop)]
        assert [(item.segment, item.offset) for item in seen] == places
        assert branch.item_count == len(listed) == len([place for place in places if place not in gone])
        everything |= {place for place in places if place not in gone}
    scan = await store.items.scan(OWNER, made.id)
    found = [(item.segment, item.offset) for item in scan.items]
    assert len(found) == len(set(found))
    assert everything <= set(found)
