"""What holds for every secret store: one suite, run on each of them."""

from __future__ import annotations

import traceback

import pytest

from shared_state.config.secrets import STORE_KEYS, SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores import keychain
from shared_state.secret_stores.base import ListingStore, ReadOnce, WritableStore, load_sdk
from shared_state.secret_stores.table import _MODULES, open_store
from tests.unit.shared_state.secret_stores.conftest import VAULTS, WRITABLE, FakeKeyring, Open
from tests.unit.shared_state.secret_stores.vaults import Vaults

CANARY = "sk-canary-0815"


@pytest.mark.parametrize("store", WRITABLE)
def test_what_was_put_is_found_by_the_next_who_opens_it(open_any: Open, store: str):
    """New ones and changed ones; what was not given stays, and what is missing is None."""
    opened = open_any(store)
    assert isinstance(opened, WritableStore)

    opened.put({"ALPHA": "old-1", "BETA": "two\nlines \"quoted\" \\ $X ${Y} #z 'é'"})
    opened.put({"ALPHA": "1"})
    again = open_any(store)

    assert again.get("ALPHA") == "1"
    assert again.get("BETA") == "two\nlines \"quoted\" \\ $X ${Y} #z 'é'"
    assert again.get("GAMMA") is None
    assert "GAMMA" in again.describe("GAMMA")
    if isinstance(again, ListingStore):
        assert again.names() == ["ALPHA", "BETA"]


@pytest.mark.parametrize("store", WRITABLE)
def test_only_keyrings_cannot_list_what_they_hold(open_any: Open, store: str):
    """Nothing else is left out of the listing above by mistake."""
    assert isinstance(open_any(store), ListingStore) == (store != "modelmesh.keyring.v1")


@pytest.mark.parametrize("store", ["modelmesh.env.v1", "modelmesh.memory-secrets.v1"])
def test_what_belongs_to_the_process_cannot_be_filled(open_any: Open, store: str):
    """Whoever asks is told, by the lack of the verb."""
    assert not isinstance(open_any(store), WritableStore)


def test_memory_holds_what_it_was_given(open_any: Open):
    """For programs and tests."""
    store = open_any("modelmesh.memory-secrets.v1")

    assert (store.get("OLD"), store.get("NEW")) == ("old-value", None)


@pytest.mark.parametrize("store", VAULTS)
@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_a_vault_that_refuses_is_told_without_its_words(
    open_any: Open, vaults: Vaults, store: str, status: int
):
    """What a vault says may quote what it was sent; reading, listing and writing all end in our own error."""
    opened = open_any(store)
    vaults.refusal = status, CANARY
    verbs = (lambda: opened.get("ALPHA"), opened.names, lambda: opened.put({"ALPHA": CANARY}))

    for verb in verbs:
        with pytest.raises(SecretStoreError) as caught:
            verb()
        assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("store", VAULTS)
def test_a_vault_that_is_away_is_asked_once(open_any: Open, vaults: Vaults, store: str):
    """Thirty references cost one timeout, and each distinct secret one request."""
    reading = ReadOnce(open_any(store))
    vaults.secrets["ALPHA"] = "1"
    assert [reading.get("ALPHA") for _ in range(3)] == ["1"] * 3
    assert vaults.asked == ["ALPHA"]

    vaults.refusal = 500, "away"
    with pytest.raises(SecretStoreError) as first:
        reading.get("BETA")
    vaults.refusal = None
    with pytest.raises(SecretStoreError) as second:
        reading.get("GAMMA")

    assert first.value.is_outage
    assert second.value is first.value
    assert reading.get("ALPHA") == "1"


@pytest.mark.vaults
@pytest.mark.parametrize("store", ["aws.secrets-manager.v1", "google.secret-manager.v1"])
def test_a_prefix_stands_before_every_name(open_any: Open, vaults: Vaults, store: str):
    """And is no part of the names that are listed."""
    opened = open_any(store, prefix="mesh-")
    opened.put({"ALPHA": "1"})
    vaults.secrets["OTHER"] = "2"

    assert vaults.secrets["mesh-ALPHA"] == "1"
    assert opened.get("ALPHA") == "1"
    assert opened.names() == ["ALPHA"]


@pytest.mark.vaults
def test_key_vault_has_no_underscores(open_any: Open, vaults: Vaults):
    """The name is spelt as the vault takes it; what it cannot hold is refused before it is sent."""
    opened = open_any("microsoft.key-vault.v1")
    vaults.secrets["OPENAI-API-KEY"] = "1"

    assert opened.get("OPENAI_API_KEY") == "1"
    with pytest.raises(SecretStoreError, match="letters, digits and -"):
        opened.get("a/b")


def test_a_keyring_that_cannot_be_used_says_so(keyring: FakeKeyring):
    """Backends quote what they were given; only the kind of their error is told."""
    keyring.fault = RuntimeError(CANARY)
    store = keychain.KeyringStore(keyring, service="modelmesh")

    for verb in (lambda: store.get("A"), lambda: store.put({"A": CANARY})):
        with pytest.raises(SecretStoreError, match="RuntimeError") as caught:
            verb()
        assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_missing_library_names_its_extra():
    """Nothing weaker is used in its place."""
    with pytest.raises(SecretStoreError) as caught:
        load_sdk("no.such.module", package="nosuch", extra="aws", store="aws.secrets-manager.v1")

    assert caught.value.message == (
        "aws.secrets-manager.v1 needs the package nosuch, which is not installed: pip install 'modelmesh[aws]'"
    )


def test_every_store_of_the_configuration_has_a_file_and_keys():
    """The tables agree."""
    assert list(_MODULES) == list(STORE_KEYS)
    assert set().union(*STORE_KEYS.values()) <= SecretsConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("store", "key"),
    [
        ("google.secret-manager.v1", "project"),
        ("microsoft.key-vault.v1", "vault_url"),
        ("1password.connect.v1", "server_url"),
        ("modelmesh.json-secrets.v1", "path"),
        ("modelmesh.encrypted-file.v1", "path"),
    ],
)
def test_a_store_says_what_it_cannot_do_without(store: str, key: str):
    """The fault stands at the key that is missing."""
    with pytest.raises(SecretStoreError, match="is required") as caught:
        open_store(SecretsConfig(store=store), {})

    assert caught.value.key == key
