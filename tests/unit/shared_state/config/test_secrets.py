"""Secret stores, and references inside values."""

from __future__ import annotations

import pytest

from shared_state.config.faults import format_path
from shared_state.config.portions import find_literal_secrets, without_literal_secrets
from shared_state.config.references import find_secrets, resolve
from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import ReadOnce
from shared_state.secret_stores.dotenv import parse_dotenv
from shared_state.secret_stores.environment import EnvironmentStore
from shared_state.secret_stores.table import open_store


def resolve_one(text, *, environ=None, fail_on_missing=True):
    environ = environ or {}
    return resolve(
        {"value": text}, environ=environ, store=EnvironmentStore(environ), fail_on_missing=fail_on_missing
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $5 {x}", "plain $5 {x}"),
        ("${env:HOST}", "example.org"),
        ("http://${env:HOST}:${env:PORT:-80}/v1", "http://example.org:80/v1"),
        ("${env:EMPTY:-default}", "default"),
        ("${env:EMPTY}", ""),
        ("${env:NOWHERE:-}", ""),
        ("${env:NOWHERE:-a:-b}", "a:-b"),
        ("redis://:${secrets:PASSWORD}@${env:HOST}", "redis://:p@ss}${env:HOST}@example.org"),
        ("$${env:HOST}", "${env:HOST}"),
    ],
)
def test_references_are_replaced_once(text, expected):
    """Anywhere in a text, several times, never inside what was put in."""
    environ = {"HOST": "example.org", "EMPTY": "", "PASSWORD": "p@ss}${env:HOST}"}

    resolved = resolve_one(text, environ=environ)

    assert resolved.document["value"] == expected
    assert resolved.faults == []


def test_references_are_found_in_lists_and_mappings():
    """Other values stay as they are, and so does the document that was given."""
    document = {"a": [1, "${env:X}", {"b": "${env:X}"}], "c": None, "d": True}

    resolved = resolve(document, environ={"X": "x"}, store=None)

    assert resolved.document == {"a": [1, "x", {"b": "x"}], "c": None, "d": True}
    assert document["a"][1] == "${env:X}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "${env:NOWHERE}",
            "the environment variable NOWHERE is not set; ${env:NOWHERE:-default} gives a default",
        ),
        ("${secrets:NOWHERE}", "the secret NOWHERE is missing: the environment variable NOWHERE is not set"),
        ("${ENCRYPTION_KEY}", "${ENCRYPTION_KEY} is no reference: write ${env:ENCRYPTION_KEY} or"),
        ("${env:HOST", "a reference is not closed"),
        ("${vault:sk-pasted-by-mistake}", "a reference must read ${secrets:NAME}"),
        ("${}", "a reference must read ${secrets:NAME}"),
    ],
)
def test_bad_references_are_faults_with_their_path(text, message):
    """What cannot be resolved holds nothing, and is marked so that nothing more is said about it."""
    resolved = resolve_one(text)

    (fault,) = resolved.faults
    assert format_path(fault.path) == "value"
    assert fault.message.startswith(message)
    assert "sk-pasted" not in fault.message
    assert resolved.unusable == {("value",)}


def test_missing_secret_may_be_empty():
    """``fail_on_missing: false`` asks for that."""
    resolved = resolve_one("a${secrets:NOWHERE}b", fail_on_missing=False)

    assert resolved.document["value"] == "ab"
    assert resolved.faults == []


def test_store_cannot_hold_its_own_configuration():
    """A secret inside the secrets section would need itself."""
    resolved = resolve({"secrets": {"path": "${secrets:X}"}}, environ={}, store=EnvironmentStore({"X": "x"}))

    assert "use ${env:NAME}" in resolved.faults[0].message


def test_resolved_document_does_not_print_itself():
    """It holds secrets in the clear."""
    assert "hunter22" not in repr(resolve_one("${secrets:PW}", environ={"PW": "hunter22"}))


def test_environment_store_puts_its_prefix_before_names():
    """``prefix: MESH_`` looks up MESH_KEY for KEY."""
    store = open_store(SecretsConfig(prefix="MESH_"), {"MESH_KEY": "right", "KEY": "wrong"})

    assert store.get("KEY") == "right"
    assert store.describe("X") == "the environment variable MESH_X is not set"


def test_dotenv_understands_the_usual_spellings():
    """Quotes, comments, export, escapes and continued lines."""
    text = r"""
# a comment \
PLAIN=value
export EXPORTED = spaced   # trailing comment
HASH=a#b
SINGLE='as # it \n is'   # comment
DOUBLE="two\nlines \"quoted\" \\ \$"
EMPTY=
LONG=one\
two\
three
EQUALS=a=b
LAST=end\
"""

    assert parse_dotenv(text) == {
        "PLAIN": "value",
        "EXPORTED": "spaced",
        "HASH": "a#b",
        "SINGLE": r"as # it \n is",
        "DOUBLE": 'two\nlines "quoted" \\ $',
        "EMPTY": "",
        "LONG": "onetwothree",
        "EQUALS": "a=b",
        "LAST": "end",
    }


@pytest.mark.parametrize("line", ["just-a-secret-sk-123", "KEY='sk-123", 'KEY="sk-123" sk-456'])
def test_dotenv_names_the_bad_line_but_never_its_content(line):
    """What stands in a bad line is probably a secret."""
    with pytest.raises(ValueError, match="line 3") as caught:
        parse_dotenv(f"A=1\n\n{line}\n")

    assert "sk-" not in str(caught.value)


def test_environment_wins_over_dotenv(tmp_path):
    """As every dotenv reader does it; a file that is not there holds nothing."""
    (tmp_path / "mesh.env").write_text("A=file\nB=file\n")
    config = SecretsConfig(store="modelmesh.dotenv.v1", path=str(tmp_path / "mesh.env"))
    store = open_store(config, {"A": "environment"})
    absent = open_store(config.model_copy(update={"path": "nowhere.env"}), {"A": "environment"})

    assert (store.get("A"), store.get("B"), store.get("C")) == ("environment", "file", None)
    assert (absent.get("A"), absent.get("B")) == ("environment", None)
    assert absent.describe("B") == "neither the environment nor nowhere.env holds B"


def test_dotenv_file_that_cannot_be_read(tmp_path):
    """A folder is no file of secrets."""
    with pytest.raises(SecretStoreError, match="cannot read"):
        open_store(SecretsConfig(store="modelmesh.dotenv.v1", path=str(tmp_path)), {})


class Vault:
    """A store that has some secrets, refuses one, and is away for another."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get(self, name: str) -> str | None:
        self.asked.append(name)
        if name == "REFUSED":
            raise SecretStoreError("the vault refuses it")
        if name == "AWAY":
            raise SecretStoreError("the vault is away", is_outage=True)
        return {"HAVE": "hunter22"}.get(name)

    def describe(self, name: str) -> str:
        return f"the vault holds no {name}"


def test_everything_that_is_missing_is_told_at_once():
    """Each with its path and where it was looked for; one that cannot be read is told apart."""
    document = {
        "a": "${secrets:HAVE}",
        "b": ["${secrets:LACK}"],
        "c": {"d": "${secrets:REFUSED}"},
        "e": "${secrets:LOST}",
    }

    resolved = resolve(document, environ={}, store=Vault())

    assert [str(fault) for fault in resolved.faults] == [
        "b[0]: the secret LACK is missing: the vault holds no LACK",
        "c.d: the secret REFUSED cannot be read: the vault refuses it",
        "e: the secret LOST is missing: the vault holds no LOST",
    ]


def test_a_store_that_is_away_is_one_fault_and_asked_once():
    """However many secrets it has; `fail_on_missing: false` is not about that."""
    vault = Vault()
    document = {"a": "${secrets:AWAY}", "b": "${secrets:HAVE}", "c": "${secrets:LACK}"}

    resolved = resolve(document, environ={}, store=ReadOnce(vault), fail_on_missing=False)

    assert [str(fault) for fault in resolved.faults] == ["secrets: the vault is away"]
    assert resolved.unusable == {("a",), ("b",), ("c",)}
    assert vault.asked == ["AWAY"]


def test_references_are_found_where_they_stand():
    """Each with its path; what is escaped or of the environment is none."""
    document = {
        "a": ["x${secrets:A}y${secrets:B}"],
        "b": "$${secrets:C} ${env:D}",
        "c": {"d": "${secrets:A}"},
        "e": 5,
    }

    assert [(name, format_path(path)) for name, path in find_secrets(document)] == [
        ("A", "a[0]"),
        ("B", "a[0]"),
        ("A", "c.d"),
    ]


@pytest.mark.parametrize(
    "section",
    [
        {"token": "sk-literal"},
        {"passphrase": "sk-literal"},
        {"encryption_key": "sk-literal"},
        {"secrets": {"A": "sk-literal"}},
    ],
)
def test_what_opens_a_store_does_not_leave_the_file(section):
    """A version of the configuration is kept in Redis: there it has to be a reference."""
    (fault,) = find_literal_secrets({"secrets": section})

    assert "is kept in Redis" in fault.message
    assert "sk-literal" not in str(fault)
    assert "sk-literal" not in str(without_literal_secrets({"secrets": section}))
    assert find_literal_secrets({"secrets": {"token": "${env:TOKEN}"}}) == []
