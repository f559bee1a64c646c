"""The names by which others enter the package."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import proxy

WAYS_IN = {
    "proxy.app": ("create_app", "create_runner"),
    "proxy.config.settings": ("Config",),
    "proxy.config.loading": ("ConfigError", "load_config"),
    "proxy.cli.main": ("main",),
    "proxy.relay": ("MalformedEvent", "Outcome", "Ownership", "Relay", "Splicer"),
    "proxy.echo": ("build_response", "create_echo_app"),
}


@pytest.mark.parametrize("module", WAYS_IN)
def test_the_ways_in_are_there(module: str):
    found = importlib.import_module(module)
    assert [name for name in WAYS_IN[module] if not callable(getattr(found, name, None))] == []


def test_subpackages_export_just_their_ways_in():
    for module in ("proxy.relay", "proxy.echo"):
        assert tuple(importlib.import_module(module).__all__) == WAYS_IN[module]


def test_importing_the_package_loads_nothing():
    code = "import sys; before = set(sys.modules); import proxy; print(sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['proxy']"
    assert proxy.__version__
