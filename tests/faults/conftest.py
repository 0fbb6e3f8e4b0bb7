"""What all of the campaign has in common; and at its end, how many faults were injected and survived."""

from __future__ import annotations

import threading

import pytest
from campaign import Killed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second question waits long, and a thread that was killed says nothing."""
    monkeypatch.setattr("cluster.apply.FIRST_POLL", 0.001)
    complain = threading.excepthook
    monkeypatch.setattr(
        threading, "excepthook", lambda args: None if args.exc_type is Killed else complain(args)
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "faults"
    ]
    if not rows:
        return
    terminalreporter.section("faults injected and survived")
    for name, injected, survived in rows:
        terminalreporter.write_line(f"{name:32} {injected:6} {survived:6}")
    injected, survived = (sum(row[column] for row in rows) for column in (1, 2))
    terminalreporter.write_line(f"{'all':32} {injected:6} {survived:6}")
