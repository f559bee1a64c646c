from __future__ import annotations

import msgspec
import pytest

from proxy.cli.messages import (
    Assignment,
    BulkProcesses,
    Failed,
    Load,
    Ready,
    WorkerReport,
    read_assignment,
    read_report,
    write_assignment,
    write_report,
)
from proxy.config.settings import AuthConfig, Config, JwtConfig, ModelsConfig, RedisConfig, Secret, ServerConfig


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(
            server=ServerConfig(workers="auto", cors_origins=("https://a.example",)),
            redis=RedisConfig(url=Secret("redis://:hunter2@h")),
            auth=AuthConfig(mode="jwt", jwt=JwtConfig(secret=Secret("s"), algorithms=("HS256",))),
            models=ModelsConfig(windows={"gpt-*": 128_000}),
        ),
    ],
)
def test_a_worker_gets_all_settings_as_they_are(config: Config):
    read = read_assignment(write_assignment(Assignment(3, config)))
    assert read == Assignment(3, config)
    assert type(read.config.redis.url) is Secret


def test_what_is_no_assignment_is_refused():
    for data in (b"", b"{}", b'{"index": 1, "config": {"server": {"port": "x"}}}'):
        with pytest.raises(msgspec.DecodeError):
            read_assignment(data)


@pytest.mark.parametrize("report", [Ready(), BulkProcesses({1001: 5}), Failed("no\nway", 2), Load(5, 3)])
def test_reports_are_lines(report: WorkerReport):
    line = write_report(report)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert read_report(line[:-1]) == report
