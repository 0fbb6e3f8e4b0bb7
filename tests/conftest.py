"""The directory of a test is its marker; a skip is a failure where CLUSTERCTL_NO_SKIP=1 says so.

CLUSTERCTL_FUZZ=20000 has hypothesis try as many examples of each property that asks for no number of its own;
a few dozen are enough to notice a rule that broke.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
# They take minutes each. Begun first, what is short fills the time of the other processes (`pytest -n`).
LONGEST = {f"test_{name}.py" for name in ("serving", "failures", "drill", "heal", "watch", "rollback", "lab")}

# How long an example takes says something about the machine and its load alone.
settings.register_profile(
    "clusterctl",
    max_examples=int(os.environ.get("CLUSTERCTL_FUZZ") or 50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clusterctl")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Rewrite the golden files.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        layer = item.path.relative_to(TESTS).parts[0]
        item.add_marker(layer)
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.name not in LONGEST)


def _no_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    expected_to_fail = hasattr(report, "wasxfail")
    if report.skipped and not expected_to_fail and os.environ.get("CLUSTERCTL_NO_SKIP") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CLUSTERCTL_NO_SKIP=1 turns this skip into a failure: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _no_skip(report)
    return report


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
