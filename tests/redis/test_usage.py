"""Usage on a real server: what the windows hold, what remains of a pool, and what Prometheus is told."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.api.application import build_application, metrics_route
from node.api.auth import Doorkeeper
from node.observe.cluster import ClusterGauges
from node.observe.metrics import Metrics
from shared_state.availability import DomainHealth, Health, keep_health
from shared_state.books import Cause, Difference, by_cause, report_audit
from shared_state.ledger import Amounts, LeaseWish, Outcome
from tests.redis.office import Office, mesh, open_office
from tests.unit.node.api.asgi import ask

NANO = 10**9


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The one row with these values."""
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


async def test_a_window_shows_what_is_used_held_and_left(open_store):
    """Of a model and of its account; money in USD."""
    models = {"alpha.small": {"rpm": 10, "tpd": 1000, "usd_per_day": 0.01, "concurrency": 4}}
    async with open_office(open_store(), mesh(models, accounts={"alpha": {"rpm": 20}})) as office:
        await office.attempt(
            "alpha.small", tokens=(50, 50), tokens_in=20, tokens_out=10, cost_nano=NANO // 200
        )
        await office.admit("alpha.small", tokens=(5, 5))
        wish = LeaseWish("alpha.small", Amounts(), Amounts(), 3, Amounts(1, 10, 5, 5, 0))
        (held,) = await office.callers["alpha"].ledger.renew_leases(
            [wish], sequence=1, life_ms=60_000, share=2
        )
        (account,) = (await office.view("usage"))["accounts"]
    windows = {window["name"]: window for window in account["models"][0]["windows"]}
    rpm, tpd = windows["rpm"], windows["tpd"]

    assert held.requests == 1
    assert (rpm["used"], rpm["held"], rpm["limit"], rpm["remaining"], rpm["share"]) == (2, 1, 10, 7, 0.3)
    assert (tpd["used"], tpd["held"], tpd["remaining"]) == (40, 10, 950)
    assert tpd["resets"] > 0
    assert windows["usd_per_day"]["used"] == pytest.approx(0.005, abs=2e-6)
    assert windows["usd_per_day"]["limit"] == 0.01
    assert (windows["concurrency"]["used"], windows["concurrency"]["unit"]) == (1, "requests_in_flight")
    assert row(account["windows"], name="rpm")["remaining"] == 17


async def test_a_pool_of_free_accounts_is_one_quota(open_store):
    """It tells what is left of all together, at which rate it goes, and for how long it lasts."""
    topology = mesh({"alpha.m": {"rpd": 10}, "beta.m": {"rpd": 20}, "gamma.m": {"rpd": 40}})
    async with open_office(open_store(), topology) as office:
        for model in ("alpha.m", "alpha.m", "beta.m"):
            await office.attempt(model)
        await office.ask("models/gamma.m/deactivate", method="POST")
        await office.look_again()
        (pool,) = (await office.view("usage"))["pools"]
    (quota,) = pool["quotas"]

    assert (pool["active"], pool["members"], pool["accounts"]) == (2, 3, ["alpha", "beta", "gamma"])
    assert (quota["unit"], quota["limit"], quota["remaining"]) == ("requests_per_day", 30, 27)
    assert quota["resting"] == 40
    assert quota["rate"] > 0
    assert pool["dry_s"] == quota["dry_s"] == pytest.approx(27 / quota["rate"])
    assert pool["dry_by"] == "requests_per_day"


async def test_what_failed_counts_as_use(open_store):
    """The provider was asked, so its quota is smaller."""
    async with open_office(open_store(), mesh({"alpha.m": {"rpm": 10}})) as office:
        await office.attempt("alpha.m", Outcome.FAILURE)
        (account,) = (await office.view("usage"))["accounts"]

    assert account["models"][0]["windows"][0]["used"] == 1


class Scraped:
    """`/metrics` of a node, with a count of what it asked of the store."""

    def __init__(self, office: Office) -> None:
        self.gauges = ClusterGauges(office.store, office.snapshot, office.watch)
        metrics = Metrics(office.snapshot, office.watch, {}, {}, {}, lambda: 0, office.parts.findings)
        metrics.add(self.gauges)
        route = metrics_route(metrics, Doorkeeper([], is_open=True), refresh=self.gauges.refresh)
        self.app = build_application({}, routes=[route])
        self.reads = 0
        run = office.store.run

        async def counted(*args: Any) -> Any:
            self.reads += args[0] == "read_windows"
            return await run(*args)

        office.store.run = counted  # type: ignore[method-assign]

    async def samples(self) -> dict[tuple[str, ...], float]:
        """Name and label values, by the labels' names -> value."""
        heard = await ask(self.app, "GET", "/metrics")
        return {
            (s.name, *(s.labels[label] for label in sorted(s.labels))): s.value
            for family in text_string_to_metric_families(heard.body.decode())
            for s in family.samples
        }


async def test_prometheus_learns_quotas_with_bounded_labels(open_store):
    """Windows by domain, model and name; pools by unit; scrapes in a row cost one read of each domain."""
    topology = mesh({"alpha.m": {"rpm": 10}, "beta.m": {"rpd": 20}}, accounts={"alpha": {"rpd": 100}})
    async with open_office(open_store(), topology) as office:
        await office.attempt("alpha.m")
        scraped = Scraped(office)
        seen = [await scraped.samples() for _ in range(3)][-1]

    assert seen["modelmesh_window_used_ratio", "alpha", "alpha.m", "rpm"] == pytest.approx(0.1)
    assert seen["modelmesh_window_used_ratio", "alpha", "", "rpd"] == pytest.approx(0.01)
    assert seen["modelmesh_pool_remaining", "chat", "requests_per_day"] == 119
    assert seen["modelmesh_pool_dry_seconds", "chat"] > 0
    assert scraped.reads == 2


async def test_prometheus_learns_how_available_providers_are(open_store):
    """A gauge for each provider that is watched, and for no other."""
    async with open_office(open_store(), mesh({"alpha.m": {}, "beta.m": {}})) as office:
        before = await Scraped(office).samples()
        judged = DomainHealth(providers={"alpha": Health(score=0.75)})
        await keep_health(
            *(office.store, "alpha", judged), token=1, kept_s=60, changed=[], moves=[], cooldown_s=60
        )
        seen = await Scraped(office).samples()

    assert not [name for name, *_ in before if name == "modelmesh_availability"]
    assert {
        labels: v
        for (name, *labels_), v in seen.items()
        if name == "modelmesh_availability"
        for labels in labels_
    } == {"alpha": 0.75}


async def test_prometheus_learns_whether_the_books_balance(open_store):
    """A gauge for each cause, as the last audit left it; nothing at all where nobody audits."""
    async with open_office(open_store(), mesh({"alpha.m": {}})) as office:
        before = await Scraped(office).samples()
        await report_audit(office.store, by_cause([Difference(Cause.HELD_LEASES, "alpha", "somewhere", -3)]))
        seen = await Scraped(office).samples()

    assert not [key for key in before if key[0].startswith("modelmesh_books")]
    assert {cause: seen["modelmesh_books_difference", cause] for cause in Cause} == {
        **dict.fromkeys(Cause, 0),
        "held_leases": 3,
    }
    assert seen[("modelmesh_books_audited_seconds",)] > 0


async def test_a_scrape_without_the_store_says_what_it_knows(open_store):
    """It neither fails nor waits."""
    async with open_office(open_store(), mesh({"alpha.m": {"rpm": 10}})) as office:
        office.watch.connected = False
        scraped = Scraped(office)
        seen = await scraped.samples()

    assert seen[("modelmesh_store_connected",)] == 0
    assert not [key for key in seen if key[0].startswith("modelmesh_pool_remaining")]
    assert scraped.reads == 0
