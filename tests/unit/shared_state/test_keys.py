"""Names of keys: one slot per quota domain, one namespace per cluster; and addresses without passwords."""

from __future__ import annotations

import inspect

import pytest
from redis.crc import key_slot

from shared_state.errors import ConfigurationError
from shared_state.keys import SCHEMA, Keys
from shared_state.store import Store, mask_url


def domain_keys(keys: Keys, domain: str) -> list[str]:
    """Every key of a domain, called with some model, provider, scope and minute."""
    names = []
    for name, method in inspect.getmembers(keys, inspect.ismethod):
        parameters = list(inspect.signature(method).parameters)
        if parameters[:1] == ["domain"]:
            more = [7 if p == "minute" else f"{p}-1" for p in parameters[1:]]
            names.append(getattr(keys, name)(domain, *more))
    return names


def test_all_keys_of_a_domain_share_one_slot() -> None:
    """A script touches several of them, and a cluster allows that only within a slot."""
    names = domain_keys(Keys("mm"), "alpha")

    assert len(set(names)) == len(names) >= 9
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_domains_and_pools_spread_over_slots() -> None:
    """The tag is the domain's or the pool's name, not a constant."""
    keys = Keys("mm")
    slots = {key_slot(keys.domain(f"d{i}").encode()) for i in range(50)}
    assert len(slots) > 40
    assert key_slot(keys.turns("p").encode()) == key_slot(keys.current("p").encode())
    assert len({key_slot(keys.session("p", f"s{i}").encode()) for i in range(50)}) > 40


def test_every_key_begins_with_namespace_and_schema() -> None:
    """Two clusters, or two releases that disagree about records, share a server without meeting."""
    keys = Keys("team-a")
    names = [*domain_keys(keys, "alpha"), keys.channel, keys.nodes, keys.leader, keys.jobs, keys.audit]
    names.append(keys.client_keys)
    names += [keys.turns("p"), keys.current("p"), keys.session("p", "s")]

    assert {name.split(":")[0] for name in names} == {"team-a"}
    assert {name.split(":")[1] for name in names} == {SCHEMA}


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user@host/0", "redis://user@host/0"),
        ("redis://user:s3cret@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:s3cret@host", "rediss://:***@host"),
        ("redis://host:host@host", "redis://host:***@host"),
        ("redis://user:p:w@host", "redis://user:***@host"),
        ("unix:///run/s?db=0", "unix:///run/s?db=0"),
        ("unix:///run/v.sock?db=1&password=s3cret", "unix:///run/v.sock?db=1&password=***"),
    ],
)
def test_a_password_is_never_shown(url: str, masked: str) -> None:
    """Addresses go to logs and terminals."""
    assert mask_url(url) == masked


def test_an_address_of_another_kind_is_refused_without_its_password() -> None:
    """The message names the place in the configuration."""
    with pytest.raises(ConfigurationError) as caught:
        Store("http://user:s3cret@host")

    (fault,) = caught.value.faults
    assert fault.startswith("redis.url: ")
    assert "s3cret" not in fault
