"""The Makefile, and the page that says what each of its targets needs, takes and proves."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MAKEFILE = (ROOT / "Makefile").read_text()
#: What starts something, or only lists.
NO_PROOF = {"help", "run"}


def test_every_target_is_described_in_one_place() -> None:
    """A new one cannot be forgotten; one that is gone is not described any more."""
    targets = re.findall(r"^([a-z][a-z-]*):.*## ", MAKEFILE, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    described = re.findall(r"^\| `make ([a-z-]+)`", (ROOT / "docs" / "testing.md").read_text(), re.MULTILINE)

    assert sorted(phony.split()) == sorted(targets)
    assert sorted(described) == sorted(set(targets) - NO_PROOF)


def test_every_mark_is_run_by_some_target() -> None:
    """What `make test` leaves out is run by another."""
    marks = re.findall(r'^  "(\w+):', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    expressions = re.findall(r"\$\(BIN\)/pytest.*? -m (?:'([^']+)'|(\w+))", MAKEFILE)
    asked_for = {
        word
        for quoted, plain in expressions
        for word in re.findall(r"\w+", re.sub(r"not \w+", "", quoted or plain))
    }

    assert set(marks) <= asked_for
