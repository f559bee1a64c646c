from benchmarks.performance.bars import Bar, bars, peers
from benchmarks.performance.statistics import BARE, BEFORE, OURS, UNRECORDED, Samples
from tests.benchmarks.runs import invented


def named(samples: Samples) -> dict[str, Bar]:
    return {bar.name: bar for bar in bars(samples)}


def verdict(name: str) -> tuple[float, bool | None]:
    bar = named(invented())[name]
    assert bar.measured is not None
    return round(bar.measured.median, 3), bar.met


def test_what_a_turn_costs_is_compared_with_the_relay_of_the_same_round():
    assert verdict("stored single turn: proxy ÷ bare relay, CPU") == (2.0, True)
    assert verdict("stored single turn: Valkey ÷ bare relay, CPU") == (0.5, True)
    assert verdict("chain, 40 turns: proxy ÷ bare relay, CPU") == (4.0, False)
    assert verdict("chain, 40 turns: Valkey ÷ bare relay, CPU") == (1.0, False)


def test_the_best_peer_is_the_one_that_costs_least():
    assert verdict("conversation, 40 turns: proxy + store ÷ the best peer, CPU") == (0.35, True)


def test_a_peer_that_loses_history_is_not_the_best_of_those_that_send_it():
    assert peers(invented(), "depth", "1") == ["agentic-api", "smg"]
    assert peers(invented(), "depth", "300") == ["agentic-api"]
    name = "turn at depth 300: proxy + store ÷ the best peer that sends all of it, CPU"
    assert verdict(name) == (0.075, True)


def test_other_states_of_ours_are_no_peers_and_have_bars_without_recording():
    samples = Samples()
    for target, proxy_ms in ((BARE, 1.0), (OURS, 3.0), (UNRECORDED, 1.8), (BEFORE, 0.5)):
        samples.add("turns", "single", target, 0, proxy_ms=proxy_ms, store_ms=proxy_ms / 4)
    assert peers(samples, "turns", "single") == []
    found = {name: bar.met for name, bar in named(samples).items() if bar.met is not None}
    assert found == {
        "stored single turn: proxy ÷ bare relay, CPU": False,
        "stored single turn: Valkey ÷ bare relay, CPU": True,
        "stored single turn, recording off: proxy ÷ bare relay, CPU": True,
        "stored single turn, recording off: Valkey ÷ bare relay, CPU": True,
    }


def test_limits_are_the_most_or_the_least():
    assert verdict("turn at depth 1,000 ÷ at depth 1, one client, latency p50") == (1.998, False)
    assert verdict("a delta, 1 stream at once, the turn included: proxy ÷ bare relay, CPU") == (1.1, False)
    assert verdict("first byte of 50 streams opened at once ÷ bare relay, p50") == (1.4, True)
    assert verdict("2,000 streams at once, no error: memory of each") == (50.0, True)
    assert verdict("turn with 100,000 conversations stored ÷ with 100, CPU") == (1.0, True)
    assert verdict("2 workers ÷ 1 on two cores, streams of 300 deltas a second") == (1.7, True)


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert {bar.met for bar in bars(Samples())} == {None}
    assert len(bars(Samples())) > 12
