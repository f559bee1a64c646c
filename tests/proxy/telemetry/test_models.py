"""Names of models in metrics: those that somebody vouches for, and not too many."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.settings import CompactionConfig, Config, ModelsConfig
from proxy.telemetry.models import MAX_NAME_LENGTH, MOST_MODELS, KnownModels
from proxy.telemetry.telemetry import create_telemetry


def test_what_nobody_vouches_for_is_other():
    assert KnownModels(["gpt-5"]).label("gpt-5") == "gpt-5"
    assert KnownModels(["gpt-5"]).label("gpt-5-mini") == "other"
    assert KnownModels(["gpt-*", "", "x" * (MAX_NAME_LENGTH + 1)]).label("gpt-*") == "other"


def test_the_configuration_vouches():
    config = Config(models=ModelsConfig(windows={"qwen": 1000, "*": 2000}), compaction=CompactionConfig(model="small"))
    models = create_telemetry(config).models
    assert [models.label(name) for name in ("qwen", "small", "*", "large")] == ["qwen", "small", "other", "other"]


def test_there_are_only_so_many():
    models = KnownModels(f"m{number}" for number in range(10 * MOST_MODELS))
    models.vouch(["late"])
    known = {models.label(f"m{number}") for number in range(10 * MOST_MODELS)} - {"other"}
    assert len(known) == MOST_MODELS
    assert models.label("late") == "other"


@pytest.mark.parametrize(
    "listed", [None, [], {}, {"data": 3}, {"data": [3, {}, {"id": 3}, {"id": None}, "x"]}, {"data": {"id": "x"}}]
)
def test_what_is_no_list_of_models_vouches_for_nothing(listed: Any):
    models = KnownModels()
    models.vouch_list(listed)
    assert models.label("x") == "other"


def test_a_list_of_models_vouches():
    models = KnownModels()
    models.vouch_list({"object": "list", "data": [{"id": "a"}, {"id": "b", "object": "model"}]})
    assert (models.label("a"), models.label("b")) == ("a", "b")
