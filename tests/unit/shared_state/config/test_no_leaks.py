"""A value that came from a secret appears in no message and no representation, wherever it was put."""

from __future__ import annotations

import traceback

import pytest

from shared_state.config.documents import read_document
from shared_state.config.loader import read_config
from shared_state.config.version import config_version
from shared_state.errors import ConfigurationError

CANARY = "sk-canary'\"\\0815"
ENVIRON = {"CANARY": CANARY}
REFERENCE = "${secrets:CANARY}"

SOUND = {
    "providers": {"alpha": {"connector": "openai.llm.v1", "api_key": REFERENCE}},
    "models": {"alpha.gpt-4o": {"provider": "alpha"}},
    "pools": {"chat": {"capability": "chat-completion"}},
}


def with_value(path: str, value: object) -> dict:
    """The sound configuration with one value put somewhere."""
    document: dict = {
        section: {name: dict(entry) for name, entry in SOUND[section].items()} for section in SOUND
    }
    here = document
    *above, last = path.split("/")
    for part in above:
        here = here.setdefault(part, {})
    here[last] = value
    return document


@pytest.mark.parametrize(
    "path",
    [
        "redis/on_loss",
        "redis/namespace",
        "redis/timeout",
        "redis/nonsense",
        "secrets/prefix",
        "nonsense",
        "providers/alpha",
        "providers/alpha/base_url",
        "providers/alpha/connector",
        "providers/alpha/enabled",
        "providers/alpha/limits/timezone",
        "providers/alpha/limits/rpm",
        "providers/alpha/config",
        "models/alpha.gpt-4o/provider",
        "models/alpha.gpt-4o/delivery",
        "models/alpha.gpt-4o/constraints/context_window",
        "pools/chat/capability",
        "pools/chat/strategy",
        "pools/chat/retry/backoff",
        "pools/chat/recovery/cooldown",
        "proxy/port",
        "proxy/max_body",
        "proxy/auth",
        "keys/required",
        "storage/connector",
        "storage/url",
        "storage/bucket",
        "storage/endpoint",
        "capabilities/aliases/talk",
    ],
)
@pytest.mark.parametrize("text", [REFERENCE, f"before {REFERENCE} after"])
def test_faults_in_secret_values_show_the_reference_at_most(path, text):
    """Neither the message nor the traceback, with all its causes, holds the value."""
    with pytest.raises(ConfigurationError) as caught:
        read_config(with_value(path, text), environ=ENVIRON)

    whole = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "canary" not in whole
    assert caught.value.__context__ is None
    assert path.split("/")[0] in str(caught.value)


@pytest.mark.parametrize(
    "path", ["models/alpha.gpt-4o/capabilities", "pools/chat/models", "pools/chat/providers"]
)
def test_secrets_in_lists_do_not_leak_either(path):
    """The path has an index; the value stays out of it all the same."""
    with pytest.raises(ConfigurationError) as caught:
        read_config(with_value(path, ["ocr", REFERENCE]), environ=ENVIRON)

    assert "canary" not in str(caught.value)
    assert (
        f"{path.replace('/', '.')}[1]: the value of {REFERENCE} is not accepted here" in caught.value.faults
    )


def test_secret_seen_through_another_value_is_scrubbed():
    """A fault elsewhere that quotes the value shows the reference."""
    document = with_value("providers/alpha/quota_domain", "${secrets:DOMAIN}")
    document["providers"]["alpha"]["limits"] = {"rpm": 1}
    document["providers"]["beta"] = {
        **SOUND["providers"]["alpha"],
        "quota_domain": "hush-hush",
        "limits": {"rpm": 2},
    }

    with pytest.raises(ConfigurationError) as caught:
        read_config(document, environ={**ENVIRON, "DOMAIN": "hush-hush"})

    assert "hush-hush" not in str(caught.value)
    assert "${secrets:DOMAIN}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("providers/alpha/api_key", 123456789),
        ("providers/alpha/api_key", ["sk-inline"]),
        ("providers/alpha/apikey", "sk-inline"),
        ("providers/alpha/headers", {"X-Key": 123456789}),
        ("proxy/auth/tokens", "sk-inline"),
        ("keys/pepper", "sk-inline"),
        ("keys/pepper", 123456789),
        ("proxy/auth/tokens", [123456789]),
    ],
)
def test_keys_written_without_a_reference_are_not_repeated(path, value):
    """A key in the file is unwise, but an error message is no place for it."""
    with pytest.raises(ConfigurationError) as caught:
        read_config(with_value(path, value), environ=ENVIRON)

    assert "sk-inline" not in str(caught.value)
    assert "123456789" not in str(caught.value)


def test_key_with_a_line_break_is_refused_without_being_shown():
    """A secret file often ends with one; it would break out of the header."""
    with pytest.raises(ConfigurationError) as caught:
        read_config(SOUND, environ={"CANARY": "sk-canary\n"})

    assert caught.value.faults == [f"providers.alpha.api_key: the value of {REFERENCE} is not accepted here"]


def test_configuration_does_not_print_its_keys():
    """The key is there when it is asked for, and only then."""
    config = read_config(with_value("keys/pepper", REFERENCE), environ=ENVIRON)

    assert config.keys.pepper.get_secret_value() == CANARY
    assert config.providers["alpha"].api_key.get_secret_value() == CANARY
    assert "canary" not in repr(config) + str(config) + config.model_dump_json()


def test_version_does_not_depend_on_secrets_or_the_machine():
    """Nodes with other keys and addresses run the same configuration; order and values count."""
    version = config_version(read_config(SOUND, environ=ENVIRON))
    elsewhere = {**SOUND, "redis": {"url": "unix:///run/x"}, "proxy": {"host": "127.0.0.2", "port": 1}}
    changed = with_value("pools/chat/strategy", "round-robin")
    reordered = with_value("pools/ocr", {"models": ["alpha.gpt-4o"]})
    backwards = {**reordered, "pools": dict(reversed(reordered["pools"].items()))}

    assert len(version) == 12
    assert config_version(read_config(SOUND, environ={"CANARY": "another"})) == version
    assert config_version(read_config(elsewhere, environ=ENVIRON)) == version
    assert config_version(read_config(with_value("proxy/max_body", "32MB"), environ=ENVIRON)) == version
    assert config_version(read_config(changed, environ=ENVIRON)) != version
    assert config_version(read_config(reordered, environ=ENVIRON)) != config_version(
        read_config(backwards, environ=ENVIRON)
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: *{}",
        "a: &{} [",
        "a: !{} x",
        "a: !!int {}",
        "a: !!timestamp {}",
        "a: '{}",
        'a: "\\{}"',
        "a: {}: b",
        "- {}\nb: c",
        "%{}\na: b",
        "{}",
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
def test_a_file_that_is_broken_at_a_key_does_not_show_it(tmp_path, text, suffix):
    """Parsers quote anchors, tags and what is no number; a key pasted without quotes becomes one of these."""
    path = tmp_path / f"mesh{suffix}"
    path.write_text(text.format("sk-canary"))

    with pytest.raises(ConfigurationError) as caught:
        read_document(path)

    assert "canary" not in "".join(traceback.format_exception(caught.value))
