"""The reference of the configuration says what the models say."""

from __future__ import annotations

from pathlib import Path

from shared_state.config.reference import render

DOCUMENT = Path(__file__).parents[4] / "docs" / "configuration.md"


def test_the_document_is_up_to_date() -> None:
    """A change of a model is a change of its page."""
    assert render() == DOCUMENT.read_text(encoding="utf-8")


def test_every_level_is_there() -> None:
    """Sections by name and sections within them, with their defaults."""
    text = render()

    assert "\n## providers.ID.timeouts\n" in text
    assert "| `idle` | `20.0` | longest pause between two pieces of a stream |" in text
    assert "| `provider` | required |" in text
