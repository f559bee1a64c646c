import orjson
import pytest

from proxy.context.budget import TokenBudget
from proxy.context.input import TurnInput
from proxy.context.truncation import ItemRole
from storage import OpenedTurn


def item(text: str, role: str = "user") -> bytes:
    return orjson.dumps({"id": "msg_1", "type": "message", "role": role, "content": [{"text": text}]})


def remembered(gauge: TokenBudget) -> int:
    return len(gauge._young.keys() | gauge._old.keys())


async def test_items_are_weighed_by_their_content_whatever_their_id():
    one, other, again = await TokenBudget({}).weigh([item("short"), item("very much longer than that"), item("short")])
    assert one == again
    assert one.tokens < other.tokens
    assert one.role is ItemRole.USER


async def test_what_was_weighed_is_not_weighed_again():
    gauge = TokenBudget({})
    items = [item(str(n)) for n in range(100)]
    first = await gauge.weigh(items)
    assert all(one is other for one, other in zip(first, await gauge.weigh(items), strict=True))


async def test_a_long_history_is_weighed_as_a_short_one():
    texts = ["word " * 50 + str(n) for n in range(1000)]
    gauge = TokenBudget({})
    apart = [piece for text in texts[:3] for piece in await gauge.weigh([item(text)])]
    assert (await TokenBudget({}).weigh([item(text) for text in texts]))[:3] == apart


async def test_only_so_much_is_remembered_and_the_oldest_goes():
    gauge = TokenBudget({}, remembered_items=10)
    for n in range(100):
        await gauge.weigh([item(str(n))])
    assert 10 <= remembered(gauge) <= 20
    many = [item(str(n)) for n in range(50)]
    assert len(await gauge.weigh(many)) == 50
    await gauge.weigh([item("x")])
    await gauge.weigh([item(f"y{n}") for n in range(10)])
    assert remembered(gauge) <= 20


async def test_what_is_used_stays_remembered():
    gauge = TokenBudget({}, remembered_items=10)
    (first,) = await gauge.weigh([item("used")])
    for n in range(100):
        assert (await gauge.weigh([item("used"), item(str(n))]))[0] is first


async def test_what_was_used_a_while_ago_is_still_remembered():
    gauge = TokenBudget({}, remembered_items=10)
    earlier = [item(str(n)) for n in range(9)]
    first = await gauge.weigh(earlier)
    await gauge.weigh([item(f"later {n}") for n in range(9)])
    assert all(one is other for one, other in zip(first, await gauge.weigh(earlier), strict=True))


@pytest.mark.parametrize(
    "body",
    [
        {"model": "small"},
        {"model": "small", "truncation": "disabled"},
        {"model": "unknown", "truncation": "auto"},
        {"truncation": "auto"},
    ],
)
async def test_nothing_is_left_out_unasked_or_without_a_window(body):
    opened = OpenedTurn(items=[item("word " * 500)])
    assert await TokenBudget({"small": 100}).fit(body, opened, TurnInput([], [item("now")])) == (opened, 0)


async def test_a_history_that_is_too_long_is_fitted():
    opened = OpenedTurn(items=[item("old " * 500), item("new")], chain=b"1:0:2")
    body = {"model": "small", "truncation": "auto"}
    fitted, omitted = await TokenBudget({"small": 100}).fit(body, opened, TurnInput([], [item("now")]))
    assert (fitted.items, fitted.chain, omitted) == ([item("new")], b"1:0:2", 1)


async def test_tools_and_instructions_take_their_part_of_the_window():
    opened = OpenedTurn(items=[item("one " * 20), item("two")])
    body = {"model": "small", "truncation": "auto", "instructions": "word " * 60}
    fitted, _ = await TokenBudget({"small": 100}).fit(body, opened, TurnInput([], [item("now")]))
    assert fitted.items == [item("two")]


async def test_where_input_and_history_are_one_the_latest_questions_stay():
    questions = [item("one " * 200), item("two " * 200)]
    opened = OpenedTurn(items=[item("old " * 50), item("answer", "assistant"), *questions])
    body = {"model": "small", "truncation": "auto"}
    fitted, omitted = await TokenBudget({"small": 100}).fit(body, opened, TurnInput([], []))
    assert (fitted.items, omitted) == (questions, 2)
