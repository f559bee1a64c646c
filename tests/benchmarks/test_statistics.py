from pathlib import Path

import pytest

from benchmarks.performance.statistics import Samples, Spread, percentile, ratios, spread, total
from tests.benchmarks.runs import invented


def test_a_spread_is_the_middle_and_the_ends():
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([1.0, 2.0]).median == 1.5


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float):
    assert percentile(list(range(100, 0, -1)), percent) == value
    assert percentile([7.0], percent) == 7.0


def test_a_ratio_is_of_the_same_repetition():
    # both are twice as slow in the second round, which the ratio must not show
    assert ratios({0: 2.0, 1: 4.0}, {0: 1.0, 1: 2.0}) == Spread(2.0, 2.0, 2.0)
    assert ratios({0: 2.0, 1: 9.0}, {0: 1.0}) == Spread(2.0, 2.0, 2.0)


def test_without_a_common_repetition_medians_are_compared():
    assert ratios({0: 2.0, 1: 4.0, 2: 6.0}, {7: 2.0}) == Spread(2.0, 2.0, 2.0)
    assert ratios({}, {0: 1.0}) is None
    assert ratios({0: 1.0}, {}) is None
    assert ratios({0: 1.0}, {0: 0.0}) is None


def test_what_was_written_is_read_again(tmp_path: Path):
    samples = invented(1)
    samples.write(tmp_path / "measurements.csv")
    assert list(Samples.read(tmp_path / "measurements.csv")) == list(samples)


def test_cases_are_in_order_of_their_numbers_and_targets_begin_with_the_yardsticks():
    samples = invented()
    assert samples.cases("stored") == ["100 conversations", "100,000 conversations"]
    assert samples.cases("turns") == ["single", "conversation", "chain"]
    assert samples.targets("turns") == ["bare", "branchline", "smg"]
    assert samples.targets("workers") == ["1 worker", "2 workers"]


def test_a_turn_costs_what_proxy_and_store_take():
    assert total(invented(1), "turns", "conversation", "branchline") == {0: 0.7}
