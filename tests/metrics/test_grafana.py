"""The dashboard in the repository is made from the table and keeps dashboard-linter's rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poolproxy.metrics import grafana, reference
from poolproxy.metrics.registry import Kind, metrics_of
from poolproxy.metrics.schema import CLASSES

ROOT = Path(__file__).parents[2]
DASHBOARD = grafana.dashboard()
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [
    panel
    for top in DASHBOARD["panels"]
    for panel in (top["panels"] if top["type"] == "row" else [top])
]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
METRICS = {m.name: m for cls in CLASSES for m in metrics_of(cls) if m.kind is not Kind.SUM}


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("grafana/dashboard.json", grafana),
        ("docs/metrics.md", reference),
    ],
)
def test_generated_files_are_up_to_date(path, module):
    """The file is what its generator prints; if not, run ``python -m MODULE > FILE``."""
    assert (ROOT / path).read_text() == module.render()


@pytest.mark.parametrize("module", ["grafana", "reference"])
def test_a_generator_prints_its_file(module):
    """``python -m`` prints the same text, without a warning."""
    command = [sys.executable, "-W", "error", "-m", f"poolproxy.metrics.{module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == {"grafana": grafana, "reference": reference}[module].render()


def test_every_metric_is_on_the_dashboard():
    """A metric that is added to the table is seen."""
    shown = {re.sub("_bucket$", "", name) for e in EXPRESSIONS for name in names_in(e)}
    assert shown == set(METRICS)


def names_in(expression):
    """The metrics that an expression reads."""
    return re.findall(r"poolproxy_\w+", expression)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_all_that_the_linter_asks_for(panel):
    """Title, description, unit, data source and at least one query, each query with its own letter."""
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    refs = [target["refId"] for target in panel["targets"]]
    assert refs
    assert len(refs) == len(set(refs))
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_selects_job_and_instance_and_rates_counters(expression):
    """Matchers for the variables; rate over $__rate_interval for what only grows, and only for that."""
    (name,) = names_in(expression)
    selector = re.search(re.escape(name) + r"\{([^}]*)\}", expression)[1]
    assert 'job=~"$job"' in selector
    assert 'instance=~"$instance"' in selector
    grows = name.endswith(("_total", "_bucket"))
    assert (f"rate({name}{{{selector}}}[$__rate_interval])" in expression) == grows
    assert all(expression.count(a) == expression.count(b) for a, b in ("()", "{}", "[]"))
    assert set(re.findall(r"\$(\w+)", expression)) <= {*VARIABLES, "__rate_interval"}


def test_histograms_are_shown_as_three_quantiles():
    """Median, 95th and 99th percentile of every histogram, over all its pools or workers."""
    for metric in METRICS.values():
        if metric.kind is Kind.HISTOGRAM:
            quantiles = [
                e.partition(",")[0]
                for e in EXPRESSIONS
                if f"{metric.name}_bucket" in e and "(le)" in e
            ]
            assert quantiles == [f"histogram_quantile({q}" for q in ("0.5", "0.95", "0.99")]


def test_states_are_stacked():
    """Panels of states add up to the whole."""
    stacked = {
        panel["title"]
        for panel in PANELS
        if panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode")
        == "normal"
    }
    assert stacked == {
        "Clients by state",
        "Pinned clients",
        "Servers by state",
        "Workers",
    }


def test_a_panel_can_be_told_from_others_and_its_lines_too():
    """No title comes twice, and a worker's line says so and whose worker it is."""
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))
    for panel in PANELS:
        for target in panel["targets"]:
            if "worker" in (grouped(target["expr"]) or ()):
                assert grouped(target["expr"]) == ["instance", "worker"]
                assert "{{instance}} / worker {{worker}}" in target["legendFormat"]


def grouped(expression):
    """The labels in "by (...)"; None for an expression that is not summed up."""
    found = re.search(r" by \(([^)]*)\) ", expression)
    return found and found[1].split(", ")


def test_variables_are_those_that_the_linter_asks_for():
    """Data source, job and instance as its rules spell them, and the database."""
    assert list(VARIABLES) == ["datasource", "job", "instance", "database"]
    assert VARIABLES["datasource"]["label"] == "Data source"
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    for name in ("job", "instance", "database"):
        variable = VARIABLES[name]
        assert variable["type"] == "query"
        assert variable["datasource"]["uid"] == "${datasource}"
        assert (variable["multi"], variable["allValue"], variable["refresh"]) == (True, ".+", 2)
        assert variable["label"] == name.capitalize()
        assert set(names_in(variable["query"]["query"])) <= set(METRICS)


def test_identifiers_are_unique_and_nothing_overlaps():
    """Each panel has an id of its own and a place of its own on the grid of 24 columns."""
    everything = [*ROWS, *PANELS]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        (x, y)
        for panel in everything
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)


def test_the_dashboard_can_be_provisioned():
    """A fixed uid, not editable, no inputs to be asked for, valid JSON without NaN."""
    assert (DASHBOARD["uid"], DASHBOARD["editable"]) == ("poolproxy", False)
    assert "__inputs" not in DASHBOARD
    assert json.loads(json.dumps(DASHBOARD, allow_nan=False)) == DASHBOARD
