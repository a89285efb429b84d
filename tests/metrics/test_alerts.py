"""The alert rules: promtool accepts them, each fires when it should and only then, and on metrics of ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from poolproxy.metrics.registry import Kind, metrics_of
from poolproxy.metrics.schema import CLASSES

ROOT = Path(__file__).parents[2]
RULES = ROOT / "grafana" / "alerts.yml"
INCIDENTS = Path(__file__).with_name("alerts_test.yml")
ALERTS = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
METRICS = {m.name: m for cls in CLASSES for m in metrics_of(cls) if m.kind is not Kind.SUM}


@pytest.mark.needs_promtool
@pytest.mark.parametrize("command", [("check", RULES), ("test", INCIDENTS)], ids=lambda c: c[0])
def test_promtool_is_content(command: tuple[str, Path]) -> None:
    """``promtool check rules`` and ``promtool test rules`` with one incident after the other."""
    verb, path = command
    done = subprocess.run(
        ["promtool", verb, "rules", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_whole(alert: dict[str, object]) -> None:
    """It asks for metrics and label values that there are, says what to do, and an incident fires it."""
    names = re.findall(r"\bpoolproxy_\w+", str(alert["expr"]))
    assert {re.sub("_bucket$", "", name) for name in names} <= set(METRICS)
    for name, value in re.findall(r'(poolproxy_\w+)\{\w+="(\w+)"\}', str(alert["expr"])):
        assert value in (METRICS[name].values or {"login_failed"})
    assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(alert["annotations"]) == {"summary", "description"}  # type: ignore[call-overload]
    assert f'alertname="{alert["alert"]}"' in INCIDENTS.read_text()
