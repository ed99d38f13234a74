"""Dashboard and alerts ask for what nodes really tell: every name and every label."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from node.api.auth import Doorkeeper
from node.service import NodeService
from shared_state.blueprints import Blueprints
from shared_state.config.loader import Written, read_config
from shared_state.marks import Mark, keep_mark
from shared_state.store import Store
from shared_state.topology import build_topology
from tests.redis.scheduler_ground import make_config

COMPOSE = Path(__file__).resolve().parents[2] / "compose"
ALERTS = COMPOSE / "prometheus" / "alerts.yml"
DASHBOARD = COMPOSE / "grafana" / "dashboards" / "modelmesh.json"
_NAME = re.compile(r"\b((?:modelmesh|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*[=!]~?\s*\"")
_BY = re.compile(r"\bby \(([^)]*)\)")
_SUFFIXES = ("_bucket", "_sum", "_count")
#: Those that Prometheus itself adds.
_GIVEN = {"instance", "job", "le", "alertname"}


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


async def told(store: Store, namespace: str) -> str:
    """``/metrics`` of a node."""
    target = {"connector": "modelmesh.null.v1", "name": "t"}
    document = {**make_config(namespace=namespace), "observability": {"events": [target]}}
    topology = build_topology(read_config(document))
    await keep_mark(store, "t", Mark(1), token=1)
    node = NodeService(
        topology,
        store,
        Blueprints(Written(document, "mesh.yaml")),
        name="n",
        host="127.0.0.1",
        port=1,
        ops=Doorkeeper([], is_open=True),
        home=None,
    )
    node.watch.connected = True
    await node.core.gauges.refresh()
    return node.core.metrics.render().decode()


async def test_every_query_names_metrics_that_a_node_has(
    open_store: Callable[..., Store], namespace: str
) -> None:
    """A dashboard that shows nothing, or an alert that never fires, is worse than none."""
    text = await told(open_store(), namespace)
    kinds = dict(line.split(" ")[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    known = set(kinds) | {"up"}
    known |= {name + end for name, kind in kinds.items() if kind == "histogram" for end in _SUFFIXES}
    asked = {match[1] for expression in expressions() for match in _NAME.finditer(expression)}

    assert asked - known == set()
    assert len(asked) > 30


async def test_every_label_that_is_asked_for_exists(open_store: Callable[..., Store], namespace: str) -> None:
    """Where a family has samples at rest, they have the labels that it is filtered and summed by."""
    families = list(text_string_to_metric_families(await told(open_store(), namespace)))
    labels = {s.name: set(s.labels) for family in families for s in family.samples}
    for expression in expressions():
        for match in _NAME.finditer(expression):
            wanted = set(_LABEL.findall(match[2] or ""))
            wanted |= {name.strip() for by in _BY.findall(expression) for name in by.split(",")}
            if match[1] in labels and expression.count("by (") <= 1:
                assert wanted - _GIVEN <= labels[match[1]], expression


def test_every_alert_says_what_to_do() -> None:
    """And whether somebody has to get up for it."""
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "do"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
    wanted = {"NodeDown", "ModeNotExact", "PoolWithoutActiveModel", "BooksOff", "SettlementsLost"}
    assert wanted | {"SchedulerOverdue", "BudgetAlert"} <= {rule["alert"] for rule in alerts()}


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, panels do not lie upon each other, all ask the data source that is provisioned."""
    provisioned = COMPOSE / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    cells = [cell for panel in panels() for cell in _cells(panel["gridPos"])]

    assert len({panel["id"] for panel in panels()}) == len(panels()) > 20
    assert len(cells) == len(set(cells))
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    assert all(panel["title"] and panel["description"] for panel in panels())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_the_rules() -> None:
    """Syntax, templates, types of expressions."""
    done = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def _cells(position: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(position["x"], position["x"] + position["w"]):
        for y in range(position["y"], position["y"] + position["h"]):
            yield x, y


#: Series from the third minute on, and the alert that they must bring about; before that all is well.
_FIRES = {
    "NodeDown": ('up{job="modelmesh",instance="n1"}', "1 1 1", "0x10"),
    "ModeNotExact": ('modelmesh_mode{mode="leased",instance="n1"}', "0 0 0", "1x10"),
    "PoolWithoutActiveModel": ('modelmesh_models{status="active",pool="chat"}', "2 2 2", "0x10"),
    "BooksOff": ('modelmesh_books_difference{cause="held_leases"}', "0 0 0", "3x10"),
    "SettlementsLost": ('modelmesh_lost_settlements{domain="alpha"}', "0 0 0", "4x10"),
    "NobodySchedules": ("modelmesh_scheduler_leading", "1 1 1", "0x10"),
    "SchedulerOverdue": ('modelmesh_job_overdue_seconds{name="flush"}', "0 2 0", "300x10"),
    "BudgetAlert": ('modelmesh_window_used_ratio{domain="alpha",window="usd_per_day"}', "0.1 0.2 0.7", "0.85x10"),
    "EventsNotTold": ('modelmesh_event_target_down{target="pager"}', "0 0 0", "1x10"),
    "ManyRequestsFail": ('modelmesh_requests_total{outcome="provider_error"}', "0 0 0", "60+60x10"),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    """Each by the series that it is about, played to Prometheus' own evaluation."""
    series, before, after = zip(*_FIRES.values(), strict=True)
    inputs = [{"series": s, "values": f"{b} {a}"} for s, b, a in zip(series, before, after, strict=True)]
    expected = {rule["alert"]: rule for rule in alerts()}
    tests = [
        {"interval": "1m", "input_series": inputs, "alert_rule_test": [*_quiet(), *_fired(expected)]},
    ]
    path = tmp_path / "test.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": tests})
    )
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    firing = set(re.findall(r"alertname: ?(\w+), time: 12m", done.stdout + done.stderr))

    assert "time: 2m" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert firing == set(_FIRES), done.stdout + done.stderr


def _quiet() -> list[dict[str, Any]]:
    return [{"eval_time": "2m", "alertname": name, "exp_alerts": []} for name in _FIRES]


def _fired(rules: dict[str, Any]) -> list[dict[str, Any]]:
    """Nothing is expected, so that what fires is told as a difference, by its name."""
    assert set(_FIRES) <= set(rules)
    return [{"eval_time": "12m", "alertname": name, "exp_alerts": []} for name in _FIRES]
