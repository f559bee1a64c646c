"""A lint of the container files: no engine is needed to see that they keep their rules."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from proxy.config.flags import FLAGS
from proxy.config.schema import ENVIRONMENT_PREFIX, keys
from proxy.config.settings import Config

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
#: Instructions in order, continued lines joined: ("FROM", "python:3.13-slim AS build").
DOCKERFILE = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8")).splitlines()
    if line and not line.startswith("#")
]
VARIABLES = {key.variable for key in keys().values()}


def arguments(instruction: str) -> list[str]:
    """What all instructions of a kind say, in order."""
    return [rest for name, rest in DOCKERFILE if name == instruction]


def environment() -> dict[str, str]:
    """The image's environment."""
    return dict(pair.split("=", 1) for line in arguments("ENV") for pair in line.split())


def is_pinned(image: str) -> bool:
    """Tell whether an image has a tag that names a version."""
    return re.fullmatch(r"[\w./-]+:\d+(\.\d+)+(-[\w.]+)*", image) is not None


def test_the_image_has_two_stages_of_the_same_pinned_base():
    stages = [line.split(" AS ") for line in arguments("FROM")]
    assert [len(stage) for stage in stages] == [2, 1]
    assert stages[0][0] == stages[1][0]
    assert is_pinned(stages[0][0])
    assert not is_pinned("python:latest")
    assert not is_pinned("python")


def test_the_image_runs_as_nobody_in_particular():
    (user,) = arguments("USER")
    number, group = user.split(":")
    assert number != "0"
    made = " ".join(arguments("RUN"))
    assert f"useradd --system --uid {number} --gid {group} --home-dir /data --shell /usr/sbin/nologin" in made
    names = [name for name, _ in DOCKERFILE]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_the_image_runs_under_any_number_in_group_0():
    """As OpenShift does it: the folder that is written to belongs to group 0, and is writable for it."""
    (_, group) = arguments("USER")[0].split(":")
    assert group == "0"
    folder = environment()["BRANCHLINE_DATA_DIR"]
    assert f"install --directory --owner branchline --group root --mode 0770 {folder}" in " ".join(arguments("RUN"))


def test_the_image_keeps_its_data_in_its_volume():
    assert arguments("VOLUME") == [environment()["BRANCHLINE_DATA_DIR"]]


def test_the_image_serves_where_it_says():
    port = environment()["BRANCHLINE_SERVER_PORT"]
    assert arguments("EXPOSE") == [port] == [str(Config().server.port)]
    assert environment()["BRANCHLINE_SERVER_HOST"] == "0.0.0.0"
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["branchline"]
    assert json.loads(arguments("CMD")[0]) == ["serve"]


def test_the_health_check_is_python_that_asks_the_right_path():
    (check,) = arguments("HEALTHCHECK")
    program, flag, code = json.loads(check.partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    ast.parse(code)
    assert "/healthz" in code


def test_everything_that_is_copied_is_in_the_build_context():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for line in arguments("COPY") for source in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert "*" in ignored
    assert not any(fnmatch.fnmatch(".env", pattern) for pattern in allowed)


def test_the_variables_of_image_and_compose_are_settings():
    composed = COMPOSE["services"]["branchline"]["environment"]
    named = {name for name in {**environment(), **composed} if name.startswith(ENVIRONMENT_PREFIX)}
    assert {**environment(), **composed}.keys() - named == {"PYTHONDONTWRITEBYTECODE"}
    assert named <= VARIABLES
    assert "redis.url" in FLAGS


def test_compose_starts_branchline_once_a_durable_valkey_is_healthy():
    services = COMPOSE["services"]
    assert services["branchline"]["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert services["branchline"]["environment"]["BRANCHLINE_REDIS_URL"].startswith("redis://valkey:")
    valkey = services["valkey"]
    assert is_pinned(valkey["image"])
    assert is_pinned(services["branchline"]["image"])
    command = valkey["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert valkey["healthcheck"]["test"][1:] == ["valkey-cli", "ping"]
    mounted = [*services["branchline"]["volumes"], *valkey["volumes"]]
    assert mounted == [f"{name}:/data" for name in COMPOSE["volumes"]]


def test_compose_reaches_a_model_server_on_this_machine_and_takes_its_settings_along():
    branchline = COMPOSE["services"]["branchline"]
    assert branchline["extra_hosts"] == ["host.docker.internal:host-gateway"]
    passed = {name for name, value in branchline["environment"].items() if value is None}
    assert {"BRANCHLINE_AUTH_MODE", "BRANCHLINE_AUTH_API_KEYS", "BRANCHLINE_UPSTREAM_API_KEY"} <= passed
    assert "BRANCHLINE_SEALING_KEY" in branchline["environment"]


def test_compose_writes_nothing_into_the_image():
    branchline = COMPOSE["services"]["branchline"]
    assert branchline["read_only"] is True
    assert branchline["tmpfs"] == ["/tmp"]


def test_compose_publishes_on_this_machine_only_and_waits_for_turns():
    branchline = COMPOSE["services"]["branchline"]
    assert branchline["ports"] == ["127.0.0.1:8080:8080"]
    assert int(branchline["stop_grace_period"].removesuffix("s")) > Config().server.shutdown_timeout_seconds
