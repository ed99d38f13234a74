"""Which parts of a document belong to the cluster, and which values must not leave the file."""

from __future__ import annotations

from typing import Any

import pytest

from shared_state.config.portions import (
    find_literal_secrets,
    own_part,
    shared_part,
    with_own_part,
    without_literal_secrets,
)

DOCUMENT: dict[str, Any] = {
    "redis": {"url": "redis://:hunter2@store", "namespace": "mm"},
    "server": {"drain": "5s"},
    "proxy": {"host": "0.0.0.0", "port": 80, "max_body": "1MB"},
    "models": {"m": {"provider": "p"}},
}


def test_a_version_holds_nothing_of_the_machine():
    """Where the store is, where a process listens and its engines stay in its own file."""
    assert shared_part(DOCUMENT) == {"proxy": {"max_body": "1MB"}, "models": {"m": {"provider": "p"}}}
    assert shared_part({"proxy": {"port": 1}}) == {}


def test_a_process_runs_a_version_with_its_own_parts():
    """Whatever the version says of them."""
    version = {"proxy": {"max_body": "2MB", "port": 9}, "redis": {"namespace": "other"}, "pools": {}}

    whole = with_own_part(version, DOCUMENT)

    assert whole["redis"] == DOCUMENT["redis"]
    assert whole["server"] == DOCUMENT["server"]
    assert whole["proxy"] == {"max_body": "2MB", "host": "0.0.0.0", "port": 80}
    assert "models" not in whole
    assert with_own_part(version, {}) == {"proxy": {"max_body": "2MB"}, "pools": {}}
    assert own_part(DOCUMENT)["proxy"] == {"host": "0.0.0.0", "port": 80}


@pytest.mark.parametrize(
    "value", ["sk-hunter2", "${env:KEY:-sk-hunter2}", "$${secrets:NAME}", "a ${env:A:-b} ${secrets:C}"]
)
def test_a_written_out_secret_is_found_and_not_repeated(value: str):
    """Also as the default of a reference, and behind an escape, which makes no reference."""
    document = {"providers": {"p": {"api_key": value}}, "proxy": {"auth": {"tokens": ["${env:T}", value]}}}

    faults = [str(fault) for fault in find_literal_secrets(document)]

    assert [fault.partition(":")[0] for fault in faults] == ["providers.p.api_key", "proxy.auth.tokens[1]"]
    assert all("${secrets:NAME}" in fault and "hunter2" not in fault for fault in faults)


@pytest.mark.parametrize("value", ["${secrets:KEY}", "Bearer ${env:KEY}", "", None])
def test_references_may_be_pushed(value: object):
    """Also within other text; nothing at all is no secret."""
    assert find_literal_secrets({"providers": {"p": {"api_key": value, "headers": {"x": value}}}}) == []


def test_a_password_in_an_address_is_a_secret():
    """User and password of a base_url may be references only."""
    written = {"providers": {"p": {"base_url": "http://me:hunter2@host/v1"}}}
    referred = {"providers": {"p": {"base_url": "http://me:${secrets:P}@host/v1"}}}

    assert [fault.path for fault in find_literal_secrets(written)] == [("providers", "p", "base_url")]
    assert find_literal_secrets(referred) == []


def test_what_is_shown_is_masked():
    """A file may hold secrets; who looks at the configuration does not see them. The document itself stays."""
    document = {"providers": {"p": {"api_key": "hunter2", "headers": {"x": "hunter2"}, "region": "eu"}}}

    masked = without_literal_secrets(document)

    assert "hunter2" not in str(masked)
    assert masked["providers"]["p"]["region"] == "eu"
    assert document["providers"]["p"]["api_key"] == "hunter2"


def test_nonsense_holds_no_secret():
    """The check runs before any validation."""
    assert find_literal_secrets({"providers": [1], "proxy": None, "keys": {"pepper": {"a": 1}}}) == []
