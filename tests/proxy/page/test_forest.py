"""Forests: whatever the chains, the paths of the tree are the branches, and it is no larger than it has to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.page.content.forest import Forest, covers
from storage import Chain, ItemPlace

Chains = dict[int, Chain]


def places_of(chain: Chain) -> list[ItemPlace]:
    """Every place of a chain, one by one."""
    return [(segment, offset) for segment, start, to in chain for offset in range(start, to)]


@st.composite
def histories(draw: st.DrawFn) -> Chains:
    """Chains as forks, additions and items left out make them: each branch reads some of another, then its own."""
    chains: Chains = {0: [(0, 0, draw(st.integers(1, 12)))]}
    for line in range(1, draw(st.integers(1, 12))):
        parent = chains[draw(st.sampled_from(sorted(chains)))]
        places = places_of(parent)[: draw(st.integers(0, 20))]
        left_out = draw(st.integers(0, 30))
        if left_out < len(places):
            places.pop(left_out)
        spans: list[tuple[int, int, int]] = []
        for segment, offset in places:
            if spans and spans[-1][0] == segment and spans[-1][2] == offset:
                spans[-1] = segment, spans[-1][1], offset + 1
            else:
                spans.append((segment, offset, offset + 1))
        own = draw(st.integers(0, 6))
        chains[line] = [*spans, *([(line, 0, own)] if own else [])]
    order = draw(st.permutations(sorted(chains)))
    return {line: chains[line] for line in order}


@given(histories())
def test_every_path_is_its_branch(chains: Chains):
    forest = Forest(chains)
    for line, chain in chains.items():
        path = forest.path(line)
        assert [place for node in path for place in places_of(node.spans)] == places_of(chain)
        assert all(line in node.lines for node in path)
        assert line in path[-1].ends
        starts = [sum(node.length for node in path[:i]) for i in range(len(path))]
        assert [node.start for node in path] == starts


@given(histories())
def test_there_are_at_most_two_nodes_a_branch_and_all_of_them_fork_or_end(chains: Chains):
    forest = Forest(chains)
    nodes = list(forest.nodes())
    assert len(nodes) <= 2 * len(chains)
    for node in nodes:
        assert node.ends or len(node.children) > 1
        assert node.lines == [line for line in chains if line in node.lines]
        firsts = [child.first for child in node.children]
        assert len(set(firsts)) == len(firsts)


@given(histories())
def test_what_two_branches_share_is_their_common_beginning(chains: Chains):
    forest = Forest(chains)
    first, second = next(iter(chains)), next(reversed(chains))
    shared = [place for node in forest.shared(first, second) for place in places_of(node.spans)]
    both = zip(places_of(chains[first]), places_of(chains[second]), strict=False)
    common = 0
    for one, other in both:
        if one != other:
            break
        common += 1
    assert len(shared) == common


@given(histories(), st.data())
def test_deleted_items_do_not_count(chains: Chains, data: st.DataObject):
    every = sorted({place for chain in chains.values() for place in places_of(chain)})
    deleted = data.draw(st.lists(st.sampled_from(every), unique=True)) if every else []
    forest = Forest(chains, deleted)
    for line, chain in chains.items():
        living = [place for place in places_of(chain) if place not in deleted]
        assert sum(map(forest.items, forest.path(line))) == len(living)


def test_an_item_that_was_left_out_is_told_where_the_line_goes_on():
    forest = Forest({0: [(0, 0, 10)], 1: [(0, 0, 5), (0, 6, 10), (1, 0, 1)]})
    assert [(node.first, node.gap, node.ends) for node in forest.nodes()] == [
        ((0, 0), 0, []),
        ((0, 5), 0, [0]),
        ((0, 6), 1, [1]),
    ]


def test_a_branch_that_ends_where_others_go_on_has_no_items_of_its_own():
    forest = Forest({0: [(0, 0, 4)], 1: [(0, 0, 2)], 2: []})
    assert [forest.own_items(line) for line in (0, 1, 2)] == [2, 0, 0]
    assert forest.root.ends == [2]
    assert forest.path(9) == []


def test_two_hundred_branches_of_a_long_conversation_make_few_rows():
    chains: Chains = {line: [(0, 0, line * 20), (line, 0, 10)] for line in range(1, 200)}
    chains[0] = [(0, 0, 5000)]
    assert len(list(Forest(chains).nodes())) <= 400


def test_a_chain_covers_what_it_reads():
    chain = [(0, 0, 2), (3, 1, 4)]
    assert [covers(chain, place) for place in ((0, 1), (0, 2), (3, 0), (3, 3), (4, 0))] == [
        True,
        False,
        False,
        True,
        False,
    ]
