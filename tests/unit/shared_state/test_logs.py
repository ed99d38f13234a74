"""Where events go: to structlog where it is configured, else to the standard library's logging."""

from __future__ import annotations

import logging

import pytest
import structlog

from shared_state.logs import get_logger


def test_events_go_to_logging_unless_structlog_is_configured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Levels are the logger's, tracebacks go along; a program that has configured structlog hears them there."""
    with structlog.testing.capture_logs() as configured:
        log = get_logger("node.x")
        log.info("to structlog", number=1)
    monkeypatch.setattr(structlog, "is_configured", lambda: False)
    with caplog.at_level(logging.INFO, logger="modelmesh.node.x"):
        log.debug("not wanted")
        log.info("to logging", number=2)
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("failed")

    assert configured == [{"event": "to structlog", "number": 1, "log_level": "info"}]
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", 'event="to logging" number=2'),
        ("ERROR", "event=failed"),
    ]
    assert "ValueError: broken" in caplog.text
