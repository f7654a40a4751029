"""The command line against stand-in plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robolearn.cli.main import main
from robolearn.core import plugins


@pytest.fixture(autouse=True)
def standins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the stand-ins exist, and nothing is written outside ``tmp_path``."""
    monkeypatch.setitem(plugins.GROUPS, "task", ("standin.tasks",))
    monkeypatch.setitem(plugins.GROUPS, "policy", ("standin.policies",))
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; returns exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(arguments)
        out, err = capfd.readouterr()
        return status, out, err

    return run
