"""A lint of the systemd unit and of the manifests for Kubernetes: no cluster is needed to see that they fit."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from proxy.api.health import CHECK_SECONDS
from proxy.api.health import ROUTES as PROBED
from proxy.config.schema import keys
from proxy.config.settings import Config
from proxy.config.validation import violations

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
VARIABLES = {key.variable for key in keys().values()}
PATHS = {route.path for route in PROBED}
STOP_SECONDS = Config().server.shutdown_timeout_seconds


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text("utf-8"))


MANIFESTS = {(one["kind"], one["metadata"]["name"]): one for one in manifests()}
DEPLOYMENT = MANIFESTS["Deployment", "branchline"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
CONFIG: dict[str, Any] = tomllib.loads(MANIFESTS["ConfigMap", "branchline"]["data"]["config.toml"])


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_what_runs_has_no_rights_and_limits_on_its_memory(kind: str):
    for (found, _), manifest in MANIFESTS.items():
        if found != kind:
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            limited = container["securityContext"]
            assert limited["readOnlyRootFilesystem"]
            assert not limited["allowPrivilegeEscalation"]
            assert limited["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
            assert ":" in container["image"]


def test_selectors_find_the_pods():
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    budget = MANIFESTS["PodDisruptionBudget", "branchline"]["spec"]
    for selector in (
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        MANIFESTS["Service", "branchline"]["spec"]["selector"],
        budget["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert 0 < budget["minAvailable"] < DEPLOYMENT["spec"]["replicas"]
    valkey = MANIFESTS["StatefulSet", "valkey"]["spec"]
    pods = valkey["template"]["metadata"]["labels"]
    assert MANIFESTS["Service", "valkey"]["spec"]["selector"].items() <= pods.items()
    assert valkey["serviceName"] == "valkey"


def test_probes_ask_what_there_is_and_wait_long_enough():
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert set(paths.values()) <= PATHS
    assert CONTAINER["readinessProbe"]["timeoutSeconds"] > CHECK_SECONDS
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {CONTAINER[name]["httpGet"]["port"] for name in paths} == {"http"}
    assert ports["http"] == Config().server.port
    assert ports["metrics"] == CONFIG["metrics"]["port"]
    (served,) = MANIFESTS["Service", "branchline"]["spec"]["ports"]
    assert served["targetPort"] == "http"


def test_turns_get_their_time_to_end():
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    # what is told to end after that has 5 s more
    assert POD["terminationGracePeriodSeconds"] >= pause + STOP_SECONDS + 15
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_secrets_are_secrets_and_settings_exist():
    secrets = {}
    for variable in CONTAINER["env"]:
        assert variable["name"] in VARIABLES
        secrets[variable["name"]] = variable["valueFrom"]["secretKeyRef"]["key"]
    assert secrets["BRANCHLINE_SEALING_KEY"] == "sealing-key"
    text = (DEPLOY / "kubernetes" / "branchline.yaml").read_text("utf-8")
    created = set(re.findall(r"--from-literal=([\w-]+)=", text))
    assert created == set(secrets.values())
    config = msgspec.convert(CONFIG, Config)
    assert list(violations(config)) == []
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert {volume["name"] for volume in POD["volumes"]} == set(mounted.values())
    assert CONTAINER["args"][-1].startswith("/etc/branchline/")
    assert {"/data", "/tmp"} <= mounted.keys()


def test_the_store_keeps_what_it_acknowledges():
    (container,) = MANIFESTS["StatefulSet", "valkey"]["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }


def test_the_unit_lets_turns_and_the_embedded_valkey_end():
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "branchline.service")
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) >= STOP_SECONDS + 15
    assert service["ExecStart"].split()[1:] == ["serve", "--config", "/etc/branchline/config.toml"]
    name, _, folder = service["Environment"].partition("=")
    assert name in VARIABLES
    assert folder == f"/var/lib/{service['StateDirectory']}"
    assert service["ProtectSystem"] == "strict"
    assert unit["Install"]["WantedBy"] == "multi-user.target"
