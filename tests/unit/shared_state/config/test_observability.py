"""The section ``observability``: what is accepted is obeyed, what is not is refused by its path."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from shared_state.config.loader import read_config
from shared_state.config.portions import find_literal_secrets
from shared_state.config.root import MeshConfig
from shared_state.config.targets import names_of
from shared_state.errors import ConfigurationError
from shared_state.event_kinds import KINDS, Gravity, chosen, gravity_of

BASE = """
providers: {alpha: {connector: openai-compatible.v1, base_url: "http://127.0.0.1:9001/v1"}}
models: {alpha.small: {provider: alpha, capabilities: [chat-completion]}}
"""


def read(section: str, **sections: Any) -> MeshConfig:
    document = {**yaml.safe_load(BASE), "observability": yaml.safe_load(section), **sections}
    return read_config(document, environ={"HOOK": "https://hooks.example.com/T1/B2/xyz"})


def fault_of(section: str, **sections: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(section, **sections)
    assert len(caught.value.faults) == 1, caught.value.faults
    return caught.value.faults[0].removeprefix("observability.")


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ("events: [{url: x}]", "events[0].url: is no option of modelmesh.console.v1"),
        ("events: [{connector: modelmesh.webhook.v1}]", "events[0].url: is required by modelmesh.webhook.v1"),
        (
            "events: [{connector: modelmesh.webhook.v1, url: hooks.example.com}]",
            "events[0].url: must be an address such as https://hooks.example.com/services/1",
        ),
        (
            "events: [{filter: [model_deactivatd]}]",
            "events[0].filter[0]: no event is 'model_deactivatd'; did you mean 'model_deactivated'?",
        ),
        ("events: [{event_filter: []}]", "events[0].event_filter: is an older spelling; write filter"),
        ("events: [{name: a}, {name: a}]", "events: two targets have the name 'a'"),
        (
            "{events: [{connector: modelmesh.json-log.v1, path: x}], logging: {connector: modelmesh.json-log.v1, path: x}}",
            "logging.path: 'x' is written to by another section already",
        ),
        (
            "events: [{connector: modelmesh.callback.v1}]",
            "events[0].on_event: must be the dotted path of a function, such as mypackage.hooks.tell",
        ),
        ("routing: {url: x}", "routing: is an older spelling; write events, a list with a section for each target"),
        ("logging: {path: x}", "logging.path: is no option of modelmesh.console.v1"),
    ],
)  # fmt: skip
def test_faults_have_their_path(section: str, fault: str) -> None:
    """One fault, where it is, and what would be right."""
    assert fault == fault_of(section)


def test_templates_name_fields_that_events_have_and_are_sent_one_by_one() -> None:
    """A spelling error would be an empty word in somebody's chat."""
    head = "connector: modelmesh.webhook.v1, url: 'http://x.y/z'"

    assert "events[0].template.text: an event has no 'modl_id'" in fault_of(
        f"events: [{{{head}, template: {{text: '{{modl_id}}'}}}}]"
    )
    assert (
        fault_of(f"events: [{{{head}, batch_size: 2, template: {{text: '{{model_id}}'}}}}]")
        == "events[0].batch_size: cannot be more than 1 together with template"
    )


def test_defaults_are_the_documented_ones() -> None:
    """A webhook hears errors alone unless it asks for more; nothing is told without a section."""
    config = read("events: [{}, {connector: modelmesh.webhook.v1, url: '${secrets:HOOK}'}]")
    console, webhook = config.observability.events

    assert (
        (console.connector, console.least),
        (webhook.least, webhook.batch_size, webhook.retry_count, webhook.timeout),
    ) == (("modelmesh.console.v1", "info"), ("error", 1, 3, 10.0))
    assert webhook.url == "https://hooks.example.com/T1/B2/xyz"
    assert read("{}").observability.events == []
    assert (
        config.observability.logging.level,
        config.observability.logging.redact,
        config.observability.statistics.retention,
    ) == ("metadata", True, 604_800.0)


def test_targets_without_names_are_counted() -> None:
    """The name is what was told is remembered by, so no two are the same."""
    events = read("events: [{}, {name: console-2}, {}, {connector: modelmesh.null.v1}]").observability.events

    assert names_of(events) == ["console", "console-2", "console-3", "null"]


def test_flush_interval_may_stand_in_either_section_but_not_differ() -> None:
    """One interval, two spellings."""
    assert read("statistics: {flush_interval: 5s}").flush_interval_s == 5.0
    assert read("{}", scheduler={"flush_interval": "7s"}).flush_interval_s == 7.0
    assert "differs from scheduler.flush_interval, 7 s" in fault_of(
        "statistics: {flush_interval: 5s}", scheduler={"flush_interval": "7s"}
    )


def test_secrets_of_targets_do_not_enter_versions() -> None:
    """Headers and the key of the signature, unless they are references."""
    target = {"headers": {"authorization": "Bearer x"}, "secret": "${secrets:S}"}

    faults = find_literal_secrets({"observability": {"events": [target]}})
    assert [str(f).partition(":")[0] for f in faults] == ["observability.events[0].headers.authorization"]


def test_filters_know_patterns_and_older_names() -> None:
    """Nothing chosen means everything, types of other releases among it."""
    assert chosen([]) is None
    assert frozenset({"provider_activated"}) == chosen(["provider_recovered"])
    assert frozenset(k for k in KINDS if k.startswith("pool_")) == chosen(["pool_*"])


def test_gravity_depends_on_who_brought_it_about() -> None:
    """An operator's order is no fault."""
    assert gravity_of("provider_deactivated", "outage") == Gravity.ERROR
    assert gravity_of("model_deactivated", "lunch") == Gravity.WARNING
    assert gravity_of("something_new", "") == Gravity.INFO


def test_tracing_needs_an_address_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a bare address spans go to their usual place."""
    assert read("tracing: {endpoint: 'http://c:4318'}").observability.tracing.traces_url == (
        "http://c:4318/v1/traces"
    )
    assert read("tracing: {endpoint: 'http://c/x/y'}").observability.tracing.traces_url == "http://c/x/y"
    assert fault_of("tracing: {sample: 0.5}") == "tracing.sample: means nothing without endpoint"
    assert "must be an address" in fault_of("tracing: {endpoint: 'c:4318'}")
    monkeypatch.setattr("shared_state.config.targets.find_spec", lambda _: None)
    assert "pip install 'modelmesh[otel]'" in fault_of("tracing: {endpoint: 'http://c:4318'}")
