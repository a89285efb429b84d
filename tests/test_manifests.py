"""The Kubernetes manifest and the Dockerfile fit the program: ports, probes, times and the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from poolproxy.settings.files import LoadedConfig, read_config

ROOT = Path(__file__).parents[1]
DOCUMENTS: dict[str, Any] = {
    one["kind"]: one
    for path in (ROOT / "config" / "kubernetes").glob("*.yaml")
    for one in yaml.safe_load_all(path.read_text())
}
POD = DOCUMENTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
MOUNTS = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    """The manifest's configuration, with a secret as it is mounted there."""
    (tmp_path / "userlist.txt").write_text('"app" "secret"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    text = DOCUMENTS["ConfigMap"]["data"]["poolproxy.toml"]
    assert f'"{MOUNTS["secret"]}/userlist.txt"' in text
    path = tmp_path / "poolproxy.toml"
    path.write_text(text.replace(MOUNTS["secret"], str(tmp_path)))
    return read_config(path)


def test_the_configuration_is_valid_and_its_ports_are_the_pods(loaded: LoadedConfig) -> None:
    """Clients, probes and Prometheus come to where poolproxy listens."""
    settings = loaded.config.settings
    assert settings.metrics_listen is not None
    assert {"postgres": settings.listen_port, "metrics": settings.metrics_listen.port} == PORTS
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(PORTS["metrics"])
    (port,) = DOCUMENTS["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (settings.listen_port, "postgres")


def test_the_pod_has_time_to_leave(loaded: LoadedConfig) -> None:
    """The grace period is longer than shutdown_timeout, or clients would be cut off."""
    assert POD["spec"]["terminationGracePeriodSeconds"] > loaded.config.settings.shutdown_timeout


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/readyz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")],
)
def test_probes_ask_for_pages_that_there_are(probe: str, path: str) -> None:
    """Liveness must not ask for readiness: a pod that drains would be killed."""
    assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "metrics"}


def test_everything_selects_the_same_pods() -> None:
    """Deployment, Service and PodDisruptionBudget mean the pods of the template."""
    labels = POD["metadata"]["labels"]
    selectors = [
        DOCUMENTS["Deployment"]["spec"]["selector"]["matchLabels"],
        DOCUMENTS["Service"]["spec"]["selector"],
        DOCUMENTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 3


def test_the_image_is_what_the_manifest_expects() -> None:
    """User, ports and the path of the configuration are those of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    assert f"--uid {POD['spec']['securityContext']['runAsUser']} " in text
    (exposed,) = re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE)
    assert exposed.split() == [str(port) for port in PORTS.values()]
    assert f'CMD ["run", "{MOUNTS["config"]}/poolproxy.toml"]' in text
