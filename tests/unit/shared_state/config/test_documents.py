"""Reading configuration files: three formats, and what is wrong with a file told by line."""

from __future__ import annotations

import pytest

from shared_state.config.documents import read_document
from shared_state.errors import ConfigurationError


@pytest.fixture
def faults_of(tmp_path):
    def read(name: str, text: str | bytes) -> list[str]:
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigurationError) as caught:
            read_document(file)
        assert str(file) in str(caught.value)
        return caught.value.faults

    return read


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mesh.yaml", "proxy: {port: 1}"),
        ("mesh.YML", "\ufeffproxy:\n  port: 1\n"),
        ("mesh.json", '{"proxy": {"port": 1}}'),
        ("mesh.toml", "[proxy]\nport = 1"),
    ],
)
def test_three_formats_by_suffix(tmp_path, name, text):
    """YAML, JSON and TOML say the same."""
    (tmp_path / name).write_text(text, encoding="utf-8")

    assert read_document(tmp_path / name) == {"proxy": {"port": 1}}


@pytest.mark.parametrize("name", ["mesh.yaml", "mesh.json", "mesh.toml"])
@pytest.mark.parametrize("text", ["", "\n"])
def test_empty_file_is_an_empty_mapping(tmp_path, name, text):
    """Whether that is enough is not for the parser to say."""
    (tmp_path / name).write_text(text)

    assert read_document(tmp_path / name) == {}


def test_other_suffixes_are_refused(faults_of):
    """The fault lists what is accepted."""
    assert faults_of("mesh.ini", "") == ["unknown kind of file '.ini'; accepted: .yaml, .yml, .json, .toml"]


def test_missing_file_says_so(tmp_path):
    """No traceback for a wrong path."""
    with pytest.raises(ConfigurationError, match="No such file"):
        read_document(tmp_path / "mesh.yaml")


def test_file_that_is_not_text(faults_of):
    """The place of the first bad byte is told."""
    assert faults_of("mesh.yaml", b"proxy: \xff") == ["is not UTF-8 at byte 7"]


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("mesh.yaml", "proxy:\n  port: [1,\n", "line 3, column 1: "),
        ("mesh.yaml", "a: *nowhere\n", "line 1, column 4: found undefined alias"),
        ("mesh.yaml", "a: 1\n---\nb: 2\n", "line 2, column 1: "),
        (
            "mesh.yaml",
            "a: !!python/object:os.system {}\n",
            "line 1, column 4: could not determine a constructor",
        ),
        ("mesh.json", '{\n  "a": }', "line 2, column 8: "),
        ("mesh.toml", "a = \n", "line 1, column 5"),
        ("mesh.toml", "a = 1\na = 2\n", "line 2"),
    ],
)
def test_syntax_errors_have_a_place(faults_of, name, text, where):
    """Line and column, counted from one."""
    (fault,) = faults_of(name, text)

    assert where in fault


def test_duplicate_yaml_keys_are_all_told(faults_of):
    """YAML would silently keep the last one."""
    text = "pools:\n  chat: {models: [a]}\n  chat: {models: [b]}\nproxy:\n  port: 1\n  host: x\n  port: 2\n"

    assert sorted(faults_of("mesh.yaml", text)) == [
        "pools.chat: is given twice, on line 2 and on line 3",
        "proxy.port: is given twice, on line 5 and on line 7",
    ]


def test_merge_keys_are_no_duplicates(tmp_path):
    """``<<`` may be given with what it is to be overridden by."""
    (tmp_path / "mesh.yaml").write_text("base: &base {rpm: 1, tpm: 2}\nmine:\n  <<: *base\n  rpm: 3\n")

    assert read_document(tmp_path / "mesh.yaml")["mine"] == {"rpm": 3, "tpm": 2}


def test_duplicate_json_keys_are_a_fault(faults_of):
    """JSON would silently keep the last one, too."""
    assert faults_of("mesh.json", '{"a": {"b": 1, "b": 2}}') == ["b: is given twice in the same object"]


@pytest.mark.parametrize(
    ("name", "text"), [("mesh.yaml", "- a\n"), ("mesh.json", "[1]"), ("mesh.yaml", "hello")]
)
def test_document_must_be_a_mapping(faults_of, name, text):
    """A list or a word is no configuration."""
    assert faults_of(name, text)[0].startswith("the file must hold a mapping of sections")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 5000,
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
        ),
    ],
    ids=["endless list", "endless mapping", "deep", "a billion"],
)
def test_documents_without_end_are_refused(faults_of, text):
    """Anchors and brackets cannot exhaust memory or stack."""
    (fault,) = faults_of("mesh.yaml", text)

    assert "deep" in fault or "without end" in fault
