"""Claims: held by whoever goes on from a place, and until nobody decides by what was there before."""

from __future__ import annotations

from proxy.recording.claims import Claims

HERE, THERE = ("0123456789abcdef", "1:1:3"), ("0123456789abcdef", "1:1:5")


def test_a_place_is_claimed_until_everybody_has_given_it_back():
    claims = Claims()
    claims.take(HERE)
    claims.take(HERE)
    claims.give_back(HERE)
    assert HERE in claims
    assert THERE not in claims
    claims.give_back(HERE)
    assert HERE not in claims


def test_a_claim_outlives_the_searches_that_were_under_way():
    claims = Claims()
    claims.take(HERE)
    with claims.searching():
        claims.give_back(HERE)
        assert HERE in claims
        with claims.searching():
            assert HERE in claims
    assert HERE not in claims


def test_a_search_that_begins_later_holds_nothing():
    claims = Claims()
    claims.take(HERE)
    early = claims.searching()
    early.__enter__()
    claims.give_back(HERE)
    with claims.searching():
        early.__exit__(None, None, None)
        assert HERE not in claims


def test_each_search_holds_what_was_given_back_since_it_began():
    claims = Claims()
    for place in (HERE, THERE):
        claims.take(place)
    first, second = claims.searching(), claims.searching()
    first.__enter__()
    claims.give_back(HERE)
    second.__enter__()
    claims.give_back(THERE)
    first.__exit__(None, None, None)
    assert (HERE in claims, THERE in claims) == (False, True)
    second.__exit__(None, None, None)
    assert THERE not in claims
