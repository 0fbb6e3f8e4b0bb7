"""The outside of the command line: usage and version."""

from __future__ import annotations

import pytest
from fakes import FakeFleet

from cluster import __version__, cli


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["up"], "Error: Missing argument 'INVENTORY'."),
        (["nonsense"], "Error: No such command 'nonsense'."),
        (["up", "x.yaml", "--nonsense"], "Error: No such option '--nonsense'."),
        (["exec", "x.yaml"], "Error: Missing argument 'COMMAND...'."),
        (["render", "x.yaml"], "Error: Missing option '-o' / '--output'."),
    ],
)
def test_usage(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", complaint)


def test_an_inventory_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "/no/such.yaml"]) == 3
    assert capsys.readouterr().err == "error: /no/such.yaml: no such file\n"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"clusterctl, version {__version__}\n"
    assert cli.main(["--help"]) == 0
    assert "130  interrupted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [("down",), ("rollback",), ("restart",), ("drill", "--kill", "worker"), ("lock", "release")]
)
def test_with_stdin_closed_nobody_is_asked(
    fleet: FakeFleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert cli.main([*words, str(fleet.file)]) == 2
    assert "add --yes where nobody can be asked" in capsys.readouterr().err
