"""Files of secrets: what is written, who may read it, what a fault tells."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores import encrypted
from shared_state.secret_stores.dotenv import DotenvStore, parse_dotenv, with_assignments
from shared_state.secret_stores.encrypted import EncryptedFileStore
from shared_state.secret_stores.files import write_file
from shared_state.secret_stores.structured import StructuredStore
from shared_state.secret_stores.table import open_store
from tests.unit.shared_state.secret_stores.conftest import KEY

CANARY = "sk-canary-0815"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def told_by(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# -- writing


def test_a_new_file_is_its_owners_alone(tmp_path: Path):
    """Nothing else is left in the folder, whatever the umask says."""
    before = os.umask(0)
    try:
        DotenvStore({}, path=str(tmp_path / "a.env")).put({"A": "1"})
    finally:
        os.umask(before)

    assert mode_of(tmp_path / "a.env") == 0o600
    assert os.listdir(tmp_path) == ["a.env"]


def test_a_file_for_a_group_stays_for_it_and_never_for_the_world(tmp_path: Path):
    """Its owner has decided who may read it; a link to it stays a link."""
    path, link = tmp_path / "real.env", tmp_path / "mesh.env"
    path.write_text("A=1\n")
    path.chmod(0o644)
    link.symlink_to(path)

    DotenvStore({}, path=str(link)).put({"A": "2"})

    assert mode_of(path) == 0o640
    assert link.is_symlink()
    assert path.read_text() == "A=2\n"


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither half a file nor a temporary one is left."""
    path = tmp_path / "a.env"
    path.write_text("A=1\n")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(SecretStoreError, match="No space left on device"):
        write_file(path, "A=2\n")

    assert path.read_text() == "A=1\n"
    assert os.listdir(tmp_path) == ["a.env"]


@pytest.mark.parametrize("kind", ["dotenv", "encrypted"])
def test_writers_do_not_undo_each_other(tmp_path: Path, kind: str):
    """Each reads and writes under one lock, on its own open store."""
    path = str(tmp_path / "secrets")

    def store() -> DotenvStore | EncryptedFileStore:
        return DotenvStore({}, path=path) if kind == "dotenv" else EncryptedFileStore(path=path, key=KEY)

    writers = [
        threading.Thread(target=store().put, args=[{f"N{number}": str(number)}]) for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert {name: store().get(name) for name in store().names()} == {f"N{n}": str(n) for n in range(8)}


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    """It is not made: the path is probably wrong."""
    with pytest.raises(SecretStoreError, match="No such file or directory"):
        DotenvStore({}, path=str(tmp_path / "no" / "a.env")).put({"A": "1"})


# -- dotenv


def test_the_rest_of_a_dotenv_file_stays_as_it_stood():
    """Comments, order, exports of others; a name that is given twice is there once afterwards."""
    text = "# keys\nexport A=1 # first\n\nB='x'\nLONG=a\\\nb\\\nc\nB=y\nC=3"

    changed = with_assignments(text, {"B": "new", "LONG": "l", "D": "d d"})

    assert changed == '# keys\nexport A=1 # first\n\nLONG=l\nB=new\nC=3\nD="d d"\n'


@given(
    st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_.-]{0,8}", fullmatch=True), st.text(), max_size=4),
    st.sampled_from(["", "# c", "A=1\n", "A=old # c\nZ='q'\n", "A=one\\\ntwo\\"]),
)
@settings(max_examples=60)
@example({"A": "tail\\"}, "")
@example({"A": "\x85\u2028\x0b"}, "A=1\n")
def test_any_value_comes_back_from_a_dotenv_file(values: dict[str, str], text: str):
    """Whatever stood there before, and what stood there stays."""
    before = parse_dotenv(text)

    assert parse_dotenv(with_assignments(text, values)) == {**before, **values}


def test_the_file_wins_over_the_environment_where_it_should(tmp_path: Path):
    """``override: true``."""
    path = tmp_path / "a.env"
    path.write_text("A=file\n")
    usual = DotenvStore({"A": "environment"}, path=str(path))
    other = DotenvStore({"A": "environment"}, path=str(path), override=True)

    assert (usual.get("A"), other.get("A")) == ("environment", "file")


def test_names_that_a_dotenv_file_cannot_hold_are_refused(tmp_path: Path):
    """Before anything is written."""
    with pytest.raises(SecretStoreError, match="is no name of a dotenv file"):
        DotenvStore({}, path=str(tmp_path / "a.env")).put({"B": "1", "a/b": "1"})

    assert not (tmp_path / "a.env").exists()


# -- JSON, YAML, TOML


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"mesh": {"keys": {"A": "1"}}, "rest": 5}'),
        ("a.yaml", "mesh: {keys: {A: '1'}}\nrest: 5\n"),
        ("a.toml", "rest = 5\n[mesh.keys]\nA = '1'\n"),
    ],
)
def test_names_stand_where_json_path_says(tmp_path: Path, name: str, text: str):
    """What else is in the file is nobody's business."""
    (tmp_path / name).write_text(text)
    store = StructuredStore(path=str(tmp_path / name), json_path="mesh.keys")

    assert (store.get("A"), store.get("rest"), store.names()) == ("1", None, ["A"])
    assert store.describe("B") == f"{tmp_path / name} at mesh.keys holds no B"


def test_json_is_written_where_it_is_read(tmp_path: Path):
    """The rest of the document stays; a path that is not there yet is made."""
    path = tmp_path / "a.json"
    path.write_text('{"rest": 5}')

    StructuredStore(path=str(path), json_path="mesh.keys").put({"A": "ä"})

    assert json.loads(path.read_text()) == {"rest": 5, "mesh": {"keys": {"A": "ä"}}}


def test_files_with_comments_are_not_written(tmp_path: Path):
    """They would lose them."""
    (tmp_path / "a.yaml").write_text("A: '1' # mine\n")

    with pytest.raises(SecretStoreError, match="comments would be lost"):
        StructuredStore(path=str(tmp_path / "a.yaml")).put({"A": "2"})


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.json", '{"A": "%s', "line 1 is not JSON"),
        ("a.json", '["%s"]', "must hold a mapping"),
        ("a.json", '{"A": {"B": "%s"}}', "secrets are texts, which these are not: A"),
        ("a.yaml", "A: 1\nB: *%s", "line 2 is not YAML"),
        ("a.yaml", "A: !!int %s", "is not YAML"),
        ("a.yaml", "A: %s\n\tB: [", "line 2 is not YAML"),
        ("a.toml", "A = %s", "is not TOML"),
        ("a.ini", "A = %s", "unknown kind of file '.ini'; accepted: .json, .yaml, .yml, .toml"),
        ("a.env", "A=1\nB='%s", "line 2 has a quote that is not closed"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_without_its_content(
    tmp_path: Path, name: str, text: str, fault: str
):
    """Parsers quote what they choke on; what stands there is probably a secret."""
    (tmp_path / name).write_text(text % CANARY)
    store = "modelmesh.dotenv.v1" if name == "a.env" else "modelmesh.json-secrets.v1"

    with pytest.raises(SecretStoreError) as caught:
        open_store(SecretsConfig(store=store, path=str(tmp_path / name)), {})

    assert fault in caught.value.message
    assert CANARY not in told_by(caught.value)


# -- the encrypted file


def encrypted_file(tmp_path: Path, **keys: str) -> EncryptedFileStore:
    config = SecretsConfig(store="modelmesh.encrypted-file.v1", path=str(tmp_path / "a.enc"), **keys)
    store = open_store(config, {})
    assert isinstance(store, EncryptedFileStore)
    return store


def test_the_file_tells_nothing_and_never_looks_the_same(tmp_path: Path):
    """Names are as secret as values; the head is the documented one."""
    path, texts = tmp_path / "a.enc", []
    for _ in range(2):
        encrypted_file(tmp_path, encryption_key=KEY).put({"ALPHA": CANARY})
        texts.append(path.read_text())
    head = json.loads(texts[0])

    assert texts[0] != texts[1]
    assert CANARY not in texts[0] and "ALPHA" not in texts[0]
    assert list(head) == ["version", "algorithm", "salt", "data"]
    assert (head["version"], head["algorithm"], head["salt"]) == (1, "AES-256-GCM", "")
    assert mode_of(path) == 0o600


def test_the_format_is_what_the_documents_say(tmp_path: Path):
    """Others can open it: nonce and data together in base64, the head authenticated."""
    encrypted_file(tmp_path, encryption_key=KEY).put({"A": "1"})
    head = json.loads((tmp_path / "a.enc").read_text())
    raw = base64.b64decode(head.pop("data"))
    aad = json.dumps(head, sort_keys=True).encode()

    assert AESGCM(bytes.fromhex(KEY)).decrypt(raw[:12], raw[12:], aad) == b'{"A": "1"}'


def test_a_passphrase_opens_what_it_sealed(tmp_path: Path):
    """Its key is made by PBKDF2-HMAC-SHA256, 600,000 rounds, with a salt of the file."""
    encrypted_file(tmp_path, passphrase="correct horse").put({"A": "1"})
    salt = json.loads((tmp_path / "a.enc").read_text())["salt"]

    assert encrypted_file(tmp_path, passphrase="correct horse").get("A") == "1"
    assert salt
    assert encrypted._ROUNDS == 600_000
    with pytest.raises(SecretStoreError, match="does not open"):
        encrypted_file(tmp_path, passphrase="wrong horse")
    with pytest.raises(SecretStoreError, match="was sealed with a passphrase"):
        encrypted_file(tmp_path, encryption_key=KEY)


def test_a_wrong_key_neither_opens_nor_overwrites(tmp_path: Path):
    """And tells nothing of what is inside, nor of the key."""
    encrypted_file(tmp_path, encryption_key=KEY).put({"A": CANARY})
    before = (tmp_path / "a.enc").read_text()

    with pytest.raises(SecretStoreError, match="the key or passphrase is another one") as caught:
        encrypted_file(tmp_path, encryption_key="ab" * 32)

    assert not any(word in told_by(caught.value) for word in (CANARY, KEY, "ab" * 32, "InvalidTag"))
    assert (tmp_path / "a.enc").read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"algorithm": "XOR"},
        {"salt": "AAAA"},
        {"data": "AAAA"},
        {"data": "no base64"},
        {"salt": 5},
    ],
)
def test_a_changed_file_does_not_open(tmp_path: Path, change: dict[str, object]):
    """The head is authenticated as well."""
    encrypted_file(tmp_path, encryption_key=KEY).put({"A": "1"})
    path = tmp_path / "a.enc"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(SecretStoreError):
        encrypted_file(tmp_path, encryption_key=KEY)


def test_the_key_may_lie_in_a_file(tmp_path: Path):
    """As systemd and Kubernetes hand them over, line end included."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    encrypted_file(tmp_path, key_file=str(tmp_path / "key")).put({"A": "1"})

    assert encrypted_file(tmp_path, encryption_key=KEY).get("A") == "1"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({}, "none is given"),
        ({"encryption_key": KEY, "passphrase": "x"}, "are given together: encryption_key, passphrase"),
        ({"encryption_key": "abc"}, "must be 64 hex digits"),
        ({"encryption_key": "zz" * 32}, "must be 64 hex digits"),
        ({"key_file": "/nowhere"}, "must be 64 hex digits"),
        ({"passphrase": ""}, "must not be empty"),
    ],
)
def test_one_good_key_is_needed(tmp_path: Path, keys: dict[str, str], fault: str):
    """The fault does not repeat it."""
    with pytest.raises(SecretStoreError, match=fault) as caught:
        encrypted_file(tmp_path, **keys)

    assert not any(
        value in caught.value.message for name, value in keys.items() if len(value) > 2 and name != "key_file"
    )
