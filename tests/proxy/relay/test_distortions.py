"""Right streams distorted in the ways of real servers, and in their combinations: they mean what they meant.

`run` holds every stream against openai's models, its stream helper, and the invariants.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.depth import examples
from tests.proxy.relay.distortions import (
    ANNOUNCED,
    ENDS,
    IDS,
    INDICES,
    ORDERS,
    POSITIONS,
    TEXTS,
    Distortion,
    call,
    counted,
    custom_call,
    distorted,
    meaning,
    message,
    reasoning,
)
from tests.proxy.relay.strict import run

WORDS = st.lists(st.sampled_from(["sun", "moon", "star", "rain", "wind", "snow"]), min_size=1, max_size=4)


@st.composite
def outputs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw items whose texts all differ."""
    numbers = iter(range(100))

    def text() -> str:
        return f"{' '.join(draw(WORDS))} {next(numbers)}"

    kinds = {
        "message": lambda name: message(name, text()),
        "two parts": lambda name: message(name, text(), text()),
        "reasoning": lambda name: reasoning(name, "content", text()),
        "summaries": lambda name: reasoning(name, "summary", text(), text()),
        "call": lambda name: call(name, f'{{"city":"{text()}"}}'),
        "custom call": lambda name: custom_call(name, text()),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=4))
    return [kinds[kind](str(number)) for number, kind in enumerate(chosen)]


def usually(options: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(options[0]), st.sampled_from(options))


DISTORTIONS = st.builds(
    Distortion,
    positions=usually(POSITIONS),
    ids=usually(IDS),
    indices=usually(INDICES),
    texts=usually(TEXTS),
    announced=usually(ANNOUNCED),
    order=usually(ORDERS),
    end=usually(ENDS),
    twice=st.booleans(),
    reasoning_parts=st.sampled_from(["reasoning_text", "reasoning_part", "output_text"]),
    seed=st.integers(0, 9999),
)


def accept(items: list[dict[str, Any]], how: Distortion, stream: list[dict[str, Any]]) -> None:
    _, outcome = run(stream)
    said, meant = meaning(outcome.items), meaning(items)
    if how.order == "in turn":
        assert said == meant
    else:
        assert sorted(said) == sorted(meant)


# The same examples in every run: of those that no rule can read, `is_readable` knows most, not all.
@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(items=outputs(), how=DISTORTIONS)
def test_a_stream_distorted_in_every_way_means_what_it_meant(items: list[dict[str, Any]], how: Distortion):
    assume(how.is_readable(items))
    stream = distorted(items, how)
    if how.indices == "counting":
        assume(all(len(item.get("content") or ()) < 2 for item in items))
        stream = counted(stream)
    accept(items, how, stream)


@pytest.mark.parametrize("positions", ["right", "missing", "constant"])
def test_parallel_calls_in_any_order_keep_their_own_arguments(positions: str):
    calls = [call("a", '{"city":"Rome"}'), call("b", '{"city":"Oslo"}'), call("c", '{"city":"Rome"}')]
    for seed in range(40):
        order = random.Random(seed).choice(ORDERS[1:])
        how = Distortion(positions=positions, order=order, seed=seed)
        accept(calls, how, distorted(calls, how))


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("ids", IDS)
def test_each_pair_of_ways_is_read(positions: str, ids: str, texts: str):
    items = [reasoning("r", "content", "hm, ok"), message("m", "Hello, you"), call("a", "{}"), message("n", "Bye now")]
    # one of four for each three, so that every two ways meet
    turn = POSITIONS.index(positions) + IDS.index(ids) + TEXTS.index(texts)
    how = Distortion(positions=positions, ids=ids, texts=texts, announced=ANNOUNCED[turn % len(ANNOUNCED)])
    accept(items, how, distorted(items, how))


@pytest.mark.parametrize("positions", ["missing", "constant"])
def test_whole_items_that_nobody_announced_are_told_apart_by_their_ids_in_any_order(positions: str):
    items = [
        message("m", "One 1"),
        call("a", '"two"'),
        message("n", "Three"),
        call("b", '"four"'),
        message("o", "Five"),
    ]
    for seed in range(10):
        how = Distortion(
            positions=positions, texts="in item.done", announced="none", order="interleaved", end="empty", seed=seed
        )
        accept(items, how, distorted(items, how))


def test_the_distortions_distort():
    items = [message("m", "Hello, you"), call("a", "{}")]
    right = distorted(items, Distortion())
    others = [
        *(Distortion(positions=option) for option in POSITIONS[1:]),
        *(Distortion(ids=option) for option in IDS[1:]),
        *(Distortion(texts=option) for option in TEXTS[1:]),
        *(Distortion(end=option) for option in ENDS[1:]),
    ]
    assert all(distorted(items, other) != right for other in others)
