"""The least of a run, against real servers."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.performance.load import Tally, WrongAnswer, dialogues, interleaved
from benchmarks.performance.run import parse
from benchmarks.performance.special import ImagesPlan, measure_images
from benchmarks.performance.statistics import Samples
from benchmarks.performance.streams import StreamsPlan, measure_first_byte, measure_streams, open_used, run_streams
from benchmarks.performance.target import Memory, Target, bare_relay, branchline, model_server
from benchmarks.performance.turns import DepthsPlan, TurnsPlan, measure_depths, measure_turns
from benchmarks.servers.peers import PEERS, Missing, install

STREAMS = StreamsPlan(deltas=10, gaps_us=((2, 500),), repeats=((2, 1),), opened=2, openings=1)

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="benchmarks read Linux's /proc")


async def test_the_smallest_run_measures_everything_and_checks_every_answer():
    samples = Samples()
    async with model_server() as model, bare_relay(model.url) as bare, branchline(f"{model.url}/v1") as ours:
        targets = [bare, ours]
        failed = [
            await measure_turns(samples, targets, TurnsPlan(repeats=1, clients=2, turns=2)),
            await measure_depths(samples, targets, DepthsPlan((1, 12), repeats=1, clients=2, turns=1, alone=1)),
            await measure_first_byte(samples, [model.direct, *targets], STREAMS),
            await measure_streams(samples, [model.direct, *targets], STREAMS),
            await measure_images(samples, targets, ImagesPlan(repeats=1, image_bytes=1000, after=1)),
        ]
        rounds = ours.store_rounds()
    assert failed == [{}] * 5
    assert rounds.cycles > 0
    assert rounds.seconds > 0
    for kind in ("single", "conversation", "chain"):
        assert samples.of("turns", kind, "branchline", "turns") == {0: 4.0}
        assert samples.of("turns", kind, "branchline", "store_ms")[0] > 0
    assert samples.of("depth", "12", "branchline", "proxy_ms")[0] > 0
    assert samples.of("streams", "2", "bare", "delta_us")[0] > 0
    assert samples.of("first byte", "2", "direct", "p50_ms")[0] > 0
    assert samples.cases("images") == ["turn with the image", "turn after it"]


async def test_a_server_that_forgets_is_found_out():
    async with model_server() as model, bare_relay(model.url) as bare:
        # a relay, called a server that remembers chains
        forgetful = Target("forgetful", bare.url, bare.proxies, remembers=frozenset({Memory.CHAIN}))
        tally = Tally()
        async with dialogues(forgetful, Memory.CHAIN, ["x"]) as (dialogue,):
            await dialogue.turn(tally)
            assert tally.lost == 0
            await dialogue.turn(tally)
            assert tally.lost == 1
        strict = replace(forgetful, must=True)
        async with dialogues(strict, Memory.CHAIN, ["y"]) as (dialogue,):
            await dialogue.turn(tally)
            with pytest.raises(WrongAnswer):
                await dialogue.turn(tally)


async def test_a_server_that_answers_with_an_error_is_found_out():
    async with model_server() as model, bare_relay(model.url) as bare, open_used(bare, 2) as connections:
        with pytest.raises(WrongAnswer, match="400"):
            await run_streams(bare, connections, "no<tag", 3, 0)


async def test_servers_take_turns_and_one_that_fails_is_left_out():
    order: list[tuple[str, int]] = []

    async def block(target: Target, repeat: int) -> None:
        await asyncio.sleep(0)
        order.append((target.name, repeat))
        if target.name == "weak":
            raise WrongAnswer("no")

    weak, slow = Target("weak", "", ()), Target("slow", "", (), share=0.5)
    targets = [Target("one", "", (), must=True), weak, slow, Target("other", "", (), must=True)]
    assert await interleaved(targets, 2, block) == {"weak": "WrongAnswer: no"}
    assert order == [("one", 0), ("weak", 0), ("slow", 0), ("other", 0), ("other", 1), ("one", 1)]


def test_a_quick_run_asks_for_fewer_peers_and_anything_unknown_is_refused(capsys: pytest.CaptureFixture[str]):
    assert parse([]).peers.split(",") == list(PEERS)
    assert parse(["--quick"]).peers == "smg,agentic-api"
    assert parse(["--quick", "--peers", "none", "--only", "turns,first byte"]).peers == "none"
    for wrong in (["--only", "turn"], ["--peers", "smg,other"]):
        with pytest.raises(SystemExit):
            parse(wrong)
    assert "unknown: other" in capsys.readouterr().err


def test_a_peer_that_is_there_is_not_installed_again(tmp_path: Path):
    peer = PEERS["smg"]
    (tmp_path / "smg" / "bin").mkdir(parents=True)
    (tmp_path / "smg" / "bin" / peer.program).touch()
    assert install(peer, tmp_path) == tmp_path / "smg" / "bin"


def test_a_peer_that_can_not_be_installed_is_missing_with_the_reason(tmp_path: Path):
    no_folder = tmp_path / "file"
    no_folder.touch()
    with pytest.raises(Missing, match=r"smg==[\d.]+ can't be installed: ."):
        install(PEERS["smg"], no_folder)
