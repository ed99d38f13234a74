"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from node.call import Target, Trail
from shared_state.findings import Finding, Severity, StoreReport
from tests.unit.node.api.asgi import Front, ask, post


async def scrape(front: Front, **more: object) -> dict[tuple[str, ...], float]:
    """Every sample: name and label values, in the order of the labels' names -> value."""
    heard = await ask(front.app, "GET", "/metrics", **more)  # type: ignore[arg-type]
    assert heard.status == 200
    families = text_string_to_metric_families(heard.body.decode())
    return {
        (s.name, *(s.labels[label] for label in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


async def test_a_request_is_counted_where_it_went() -> None:
    """Pool, model, provider and outcome; its tokens, its attempt, its time."""
    front = Front()
    await post(front.app)
    seen = await scrape(front)

    assert seen["modelmesh_requests_total", "alpha.m", "ok", "chat", "alpha"] == 1
    assert seen[("modelmesh_attempts_total",)] == 1
    assert seen[("modelmesh_request_duration_seconds_count",)] == 1
    assert seen[("modelmesh_first_content_seconds_count",)] == 1
    assert seen[("modelmesh_in_flight",)] == 0


async def test_requests_in_panic_are_counted_by_pool() -> None:
    """They should be rare; somebody ought to hear of them."""
    front = Front()
    model, pool = front.place.topology.models["alpha.m"], front.place.topology.pools["chat"]
    front.metrics.observe(Trail(target=Target(model, pool), is_panic=True), outcome="ok", started=0, ended=1)
    seen = await scrape(front)

    assert seen["modelmesh_panic_requests_total", "chat"] == 1


async def test_callers_cannot_invent_labels() -> None:
    """A name that means nothing is counted, but not by its name."""
    front = Front()
    await post(front.app, {"model": "nonsense-4711", "messages": [{"role": "user", "content": "x"}]})
    seen = await scrape(front)

    assert seen["modelmesh_requests_total", "", "model_not_found", "", ""] == 1
    assert not any("nonsense-4711" in part for key in seen for part in key)


async def test_the_mode_and_the_members_are_told() -> None:
    """One mode is in force; members are counted by status."""
    seen = await scrape(Front())

    assert seen["modelmesh_mode", "exact"] == 1
    assert sum(value for key, value in seen.items() if key[0] == "modelmesh_mode") == 1
    assert seen["modelmesh_models", "chat", "active"] == 1


async def test_metrics_are_for_operators() -> None:
    """Without the token nobody learns anything."""
    heard = await ask(Front(tokens=["t"]).app, "GET", "/metrics")

    assert heard.status == 401


async def test_a_providers_codes_do_not_become_labels() -> None:
    """What a provider calls its errors is logged, and counted as something else."""
    front = Front()
    front.metrics.observe(Trail(), outcome="made-up-4711", started=0.0, ended=1.0)
    seen = await scrape(front)

    assert seen["modelmesh_requests_total", "", "other", "", ""] == 1


async def test_findings_about_the_store_are_counted_by_severity() -> None:
    """All severities are there from the beginning, so that an alarm has something to compare."""
    front = Front()
    assert {(await scrape(front))["modelmesh_store_findings", severity] for severity in Severity} == {0}
    front.findings.report = StoreReport(1, (Finding("x", Severity.ERROR, "x"),) * 2)
    seen = await scrape(front)

    assert [seen["modelmesh_store_findings", severity] for severity in ("error", "warning", "info")] == [
        2,
        0,
        0,
    ]
