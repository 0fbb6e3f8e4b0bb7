"""The messages that people read, as they read them."""

from __future__ import annotations

import pytest

from cluster import errors
from cluster.errors import (
    ClusterctlError,
    Complaint,
    ConnectError,
    InventoryError,
    JudgedError,
    LabError,
    PhaseError,
    PreflightError,
    Problem,
)


@pytest.mark.parametrize(
    ("complaint", "line"),
    [
        (
            Complaint(14, "nodes[2].gpus", "expected a whole number"),
            "i.yaml:14: nodes[2].gpus: expected a whole number",
        ),
        (Complaint(None, "secrets.A", "is not set"), "i.yaml: secrets.A: is not set"),
        (Complaint(None, "", "no such file"), "i.yaml: no such file"),
    ],
)
def test_a_complaint(complaint: Complaint, line: str) -> None:
    assert complaint.at("i.yaml") == line


MESSAGES = [
    (
        InventoryError("i.yaml", [Complaint(1, "a", "x"), Complaint(2, "b", "y")]),
        "i.yaml:1: a: x\ni.yaml:2: b: y",
    ),
    (
        ConnectError({"gpu-1": "no answer", "gpu-10": "the host key has changed\nssh-keygen -R gpu-10"}, 12),
        "2 of 12 nodes could not be reached; nothing was changed\n"
        "  gpu-1   no answer\n"
        "  gpu-10  the host key has changed\n"
        "      ssh-keygen -R gpu-10",
    ),
    (
        PreflightError(
            [Problem("engine-missing", "gpu-02", "docker is not installed", "docker", "Install it")]
        ),
        "1 problem found before anything was changed\n"
        "  gpu-02  docker is not installed; expected: docker [engine-missing]\n  Install it",
    ),
    (
        PhaseError("Start Ray workers", {"gpu-03": "docker run ... exited 125: no"}, 4, "Mend it."),
        "Start Ray workers failed on 1 of 4 nodes\n  gpu-03  docker run ... exited 125: no\n  Mend it.",
    ),
    (PhaseError("x", {"n": ""}, 1, "y"), "x failed on 1 of 1 node\n  n  \n  y"),
    (LabError("no"), "no"),
    (
        JudgedError(
            "Prove", [Problem("slow", "gpu-02", "0.1 GB/s", "1 GB/s", "Look at its cable")], 2, "Mend it"
        ),
        "Prove failed on 1 of 2 nodes\n  gpu-02  0.1 GB/s; expected: 1 GB/s [slow]\n"
        "      Look at its cable\n  Mend it",
    ),
    (LabError("no iproute2", "apt install iproute2"), "no iproute2\n  apt install iproute2"),
]


@pytest.mark.parametrize(("error", "text"), MESSAGES, ids=[type(error).__name__ for error, _ in MESSAGES])
def test_a_message(error: ClusterctlError, text: str) -> None:
    assert str(error) == text


def test_the_tree_at_the_top_of_the_module_is_the_truth() -> None:
    lines = [line.strip("│├└─ ").split() for line in str(errors.__doc__).splitlines() if "──" in line]
    codes = {name: int(code) for name, code, *_ in lines}
    for error in (*ClusterctlError.__subclasses__(), *PhaseError.__subclasses__()):
        if error.__module__ == errors.__name__:
            assert codes[error.__name__] == error.exit_code
