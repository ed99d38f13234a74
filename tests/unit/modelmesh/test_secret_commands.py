"""`modelmesh secrets set`, `list`, `import`: what they do, what they refuse, and that no value is ever shown."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from modelmesh.cli.app import app
from shared_state.secret_stores.dotenv import parse_dotenv, with_assignments

Invoke = Callable[..., Result]

CANARY = "sk-canary-0815"
KEY = "0f" * 32
MESH = """
secrets: {store: modelmesh.dotenv.v1, path: mesh.env}
providers:
  alpha: {connector: openai.llm.v1, api_key: '${secrets:ALPHA_KEY}', headers: {X-Org: 'o-${secrets:ORG}'}}
  beta: {connector: openai.llm.v1, api_key: '${secrets:ALPHA_KEY}', base_url: '$${secrets:NOT_ONE}'}
"""


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in a folder with a configuration; whatever it says is free of the canary."""
    monkeypatch.chdir(tmp_path)
    for name in ("MODELMESH_CONFIG", "ALPHA_KEY", "ORG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mesh.yaml").write_text(MESH)

    def invoke(*words: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, ["secrets", *words], input=stdin)
        told = result.output + "".join(traceback.format_exception(result.exception))
        assert CANARY not in told, told
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        return result

    return invoke


def held() -> dict[str, str]:
    return parse_dotenv(Path("mesh.env").read_text())


# -- set


def test_a_value_comes_from_standard_input(invoke: Invoke):
    """Less the line end that every tool puts there; what happened is told by name."""
    first = invoke("set", "ALPHA_KEY", "--value-from-stdin", "-c", "mesh.yaml", stdin=f"{CANARY}\n")
    again = invoke("set", "ALPHA_KEY", "--value-from-stdin", "-c", "mesh.yaml", stdin=CANARY)
    other = invoke("set", "ALPHA_KEY", "--value-from-stdin", "-c", "mesh.yaml", stdin="other\r\n")

    assert first.stdout == "ALPHA_KEY is added in modelmesh.dotenv.v1 (path mesh.env)\n"
    assert again.stdout == "ALPHA_KEY is unchanged in modelmesh.dotenv.v1 (path mesh.env)\n"
    assert other.stdout == "ALPHA_KEY is changed in modelmesh.dotenv.v1 (path mesh.env)\n"
    assert [result.exit_code for result in (first, again, other)] == [0, 0, 0]
    assert held() == {"ALPHA_KEY": "other"}


def test_a_value_is_asked_for_unseen(invoke: Invoke, monkeypatch: pytest.MonkeyPatch):
    """At a terminal."""
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append((text, hide_input))
        return CANARY

    monkeypatch.setattr("modelmesh.cli.secrets.typer.prompt", prompt)
    monkeypatch.setattr("modelmesh.cli.secrets._has_terminal", lambda: True)
    result = invoke("set", "ALPHA_KEY", "-c", "mesh.yaml")

    assert result.exit_code == 0
    assert asked == [("Value of ALPHA_KEY", True)]
    assert held() == {"ALPHA_KEY": CANARY}


def test_a_value_on_the_command_line_is_taken_with_a_warning(invoke: Invoke):
    """It was visible already; the warning does not repeat it."""
    result = invoke("set", "ALPHA_KEY", CANARY, "-c", "mesh.yaml")

    assert result.exit_code == 0
    assert "list of processes" in result.stderr
    assert held() == {"ALPHA_KEY": CANARY}


@pytest.mark.parametrize(
    ("words", "stdin", "fault"),
    [
        (["A"], None, "there is no terminal to ask for the value: give --value-from-stdin"),
        (["A", CANARY, "b"], None, "one value is needed, from one place"),
        (["A", CANARY, "--value-from-stdin"], CANARY, "one value is needed, from one place"),
        (["A", "--value-from-stdin"], "\n", "the value of A is empty"),
        (["-A", "--value-from-stdin"], CANARY, None),
        (["A B", "--value-from-stdin"], CANARY, "A B is no name of a secret"),
        (["a/b", "--value-from-stdin"], CANARY, "a/b is no name of a dotenv file"),
    ],
)
def test_what_cannot_be_set_is_told_and_nothing_is_written(
    invoke: Invoke, words: list[str], stdin: str | None, fault: str | None
):
    """Exit code 1, or 2 for a command that is none."""
    result = invoke("set", *words, "-c", "mesh.yaml", stdin=stdin)

    assert result.exit_code == (1 if fault else 2)
    assert (fault or "No such option") in result.stderr
    assert not Path("mesh.env").exists()


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("modelmesh.env.v1", "cannot fill the environment of other processes"),
        ("modelmesh.memory-secrets.v1", "stand in the configuration itself"),
    ],
)
def test_a_store_that_is_read_only_says_so(invoke: Invoke, store: str, why: str):
    """And which others there are; exit code 1."""
    result = invoke("set", "A", "--value-from-stdin", "--store", store, stdin=CANARY)

    assert result.exit_code == 1
    assert f"{store} is read-only: " in result.stderr and why in result.stderr
    assert "modelmesh.encrypted-file.v1" in result.stderr


def test_a_value_that_the_environment_overrules_is_told(invoke: Invoke, monkeypatch: pytest.MonkeyPatch):
    """It is stored, and would not be found."""
    monkeypatch.setenv("ALPHA_KEY", "from the environment")
    result = invoke("set", "ALPHA_KEY", "--value-from-stdin", "-c", "mesh.yaml", stdin=CANARY)

    assert result.stdout.startswith("ALPHA_KEY is added")
    assert "the environment variable ALPHA_KEY is set and wins over it" in result.stderr
    assert held() == {"ALPHA_KEY": CANARY}


def test_a_store_can_be_named_instead_of_a_configuration(invoke: Invoke, monkeypatch: pytest.MonkeyPatch):
    """With the keys that it needs; those that open it come from the environment."""
    monkeypatch.setenv("MESH_KEY", KEY)
    store = [
        "--store",
        "modelmesh.encrypted-file.v1",
        "-o",
        "path=mesh.enc",
        "-o",
        "encryption_key=${env:MESH_KEY}",
    ]
    result = invoke("set", "A", "--value-from-stdin", *store, "--json", stdin=CANARY)
    listed = invoke("list", *store, "--json")

    assert json.loads(result.stdout) == {
        "store": "modelmesh.encrypted-file.v1",
        "where": {"path": "mesh.enc"},
        "secrets": [{"name": "A", "change": "added", "overruled": False}],
    }
    assert json.loads(listed.stdout)["secrets"] == [{"name": "A", "found": True, "used_by": [], "fault": ""}]
    assert KEY not in result.output + listed.output


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--store", "modelmesh.nothing.v1"], "secrets.store: must be 'modelmesh.env.v1'"),
        (["--store", "modelmesh.browser-secrets.v1"], "is known but not obeyed"),
        (["--store", "modelmesh.dotenv.v1", "-o", "pth=x"], "secrets.pth: unknown key; did you mean 'path'?"),
        (
            ["--store", "modelmesh.dotenv.v1", "-o", "region=x"],
            "secrets.region: is no key of modelmesh.dotenv.v1",
        ),
        (["--store", "modelmesh.dotenv.v1", "-o", CANARY], "an option of a store is KEY=VALUE"),
        (["--store", "1password.connect.v1", "-o", f"token={CANARY}"], "write 'token=${env:NAME}'"),
        (["--store", "modelmesh.encrypted-file.v1"], "secrets.path: is required"),
        (["-o", "path=x", "-c", "mesh.yaml"], "path belongs to a store that is named with --store"),
        (["-c", "nowhere.yaml"], "cannot be read"),
    ],
)
@pytest.mark.parametrize("command", ["set", "list"])
def test_a_store_that_cannot_be_opened_is_told(invoke: Invoke, command: str, words: list[str], fault: str):
    """In the words of `config check`."""
    given = ["A", "--value-from-stdin"] if command == "set" else []
    result = invoke(command, *given, *words, stdin=CANARY)

    assert result.exit_code == 1
    assert fault in result.stderr


# -- list


def test_the_list_has_every_reference_and_what_else_is_there(invoke: Invoke):
    """Where each is used, in the order of the configuration; a faulty rest of it does not matter."""
    Path("mesh.env").write_text(f"ALPHA_KEY={CANARY}\nSPARE={CANARY}\n")
    result = invoke("list", "-c", "mesh.yaml", "--json")
    table = invoke("list", "-c", "mesh.yaml")

    assert result.exit_code == table.exit_code == 0
    assert json.loads(result.stdout)["secrets"] == [
        {
            "name": "ALPHA_KEY",
            "found": True,
            "used_by": ["providers.alpha.api_key", "providers.beta.api_key"],
            "fault": "",
        },
        {"name": "ORG", "found": False, "used_by": ["providers.alpha.headers.X-Org"], "fault": ""},
        {"name": "SPARE", "found": True, "used_by": [], "fault": ""},
    ]
    assert "Secrets in modelmesh.dotenv.v1 (path mesh.env)" in table.stdout
    assert "missing" in table.stdout


def test_without_a_configuration_the_keys_of_the_environment_are_listed(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
):
    """As `serve` would find them."""
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GROQ_API_KEY", CANARY)
    listed = json.loads(invoke("list", "--json").stdout)

    assert listed["store"] == "modelmesh.env.v1"
    assert listed["secrets"] == [
        {"name": "GROQ_API_KEY", "found": True, "used_by": ["providers.groq.api_key"], "fault": ""}
    ]


# -- import


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("keys.env", f"export A='{CANARY}' # x\nB=2\n"),
        ("keys", f"A={CANARY}\nB=2\n"),
        ("keys.json", f'{{"A": "{CANARY}", "B": "2"}}'),
        ("keys.yaml", f"A: {CANARY}\nB: '2'\n"),
        ("keys.toml", f"A = '{CANARY}'\nB = '2'\n"),
    ],
)
def test_a_file_is_imported_by_its_kind(invoke: Invoke, name: str, text: str):
    """All its secrets at once."""
    Path(name).write_text(text)
    result = invoke("import", name, "-c", "mesh.yaml")

    assert result.exit_code == 0, result.output
    assert [line.split(" in ")[0] for line in result.stdout.splitlines()] == ["A is added", "B is added"]
    assert held() == {"A": CANARY, "B": "2"}


def test_an_import_overwrites_nothing_unless_told(invoke: Invoke):
    """Not even the new ones are written then; with --force each is told."""
    Path("mesh.env").write_text("A=old\nB=2\nC=old\n")
    Path("keys.env").write_text(f"A={CANARY}\nB=2\nC=3\nD=4\n")
    refused = invoke("import", "keys.env", "-c", "mesh.yaml")
    before = held()
    forced = invoke("import", "keys.env", "-c", "mesh.yaml", "--force", "--json")

    assert refused.exit_code == 1
    assert (
        "nothing was written, for the store holds other values: A, C; --force replaces them" in refused.stderr
    )
    assert before == {"A": "old", "B": "2", "C": "old"}
    assert {row["name"]: row["change"] for row in json.loads(forced.stdout)["secrets"]} == {
        "A": "changed",
        "B": "unchanged",
        "C": "changed",
        "D": "added",
    }
    assert held() == {"A": CANARY, "B": "2", "C": "3", "D": "4"}


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("gone.env", None, "there is no file gone.env"),
        ("keys.env", "# nothing\n", "keys.env: holds no secrets"),
        ("keys.env", f"A='{CANARY}\n", "keys.env: line 1 has a quote that is not closed"),
        ("keys.env", CANARY, "keys.env: line 1 is no NAME=value assignment"),
        ("keys.json", f'{{"A": {{"B": "{CANARY}"}}}}', "secrets are texts, which these are not: A"),
        ("keys.json", f'{{"A": "{CANARY}"', "line 1 is not JSON"),
        ("keys.json", f'{{"A B": "{CANARY}"}}', "A B is no name of a secret"),
        ("keys.yaml", f"A: *{CANARY}", "is not YAML"),
        ("keys.env", f"A={CANARY}\nB=\n", "the value of B is empty"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told(invoke: Invoke, name: str, text: str | None, fault: str):
    """Exit code 1, nothing written, and nothing of it shown."""
    if text is not None:
        Path(name).write_text(text)
    result = invoke("import", name, "-c", "mesh.yaml")

    assert result.exit_code == 1
    assert fault in result.stderr
    assert not Path("mesh.env").exists()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    value=st.text(max_size=20),
    words=st.sampled_from(
        [
            ["set", "A", "--value-from-stdin"],
            ["set", "a/b", "--value-from-stdin"],
            ["import", "in.env"],
            ["import", "in.json", "--force", "--json"],
            ["import", "in.yaml"],
            ["list"],
            ["list", "--json"],
        ]
    ),
    is_broken=st.booleans(),
)
def test_no_output_ever_holds_a_value(invoke: Invoke, value: str, words: list[str], is_broken: bool):
    """Whatever it is, whatever is done, whether the files are sound or not."""
    secret = f"{CANARY}{value}"
    Path("in.env").write_text(
        with_assignments("", {"A": secret, "B": "2"}) + (f"\n{CANARY}" if is_broken else "")
    )
    Path("in.json").write_text(json.dumps({"A": secret}) + (CANARY if is_broken else ""))
    Path("in.yaml").write_text(f"A: {CANARY}\nB: {'*' if is_broken else ''}{CANARY}\n")

    invoke(*words, "-c", "mesh.yaml", stdin=secret)  # looks for the canary by itself
