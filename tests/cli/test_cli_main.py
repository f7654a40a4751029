"""The command as a whole: fast help, one line for every mistake, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from robolearn import __version__
from robolearn.cli import main as entry
from robolearn.core.errors import ConfigError, StoreError

Cli = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "mujoco", "zarr", "matplotlib", "numpy", "tyro", "yaml", "rich")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_answers_at_once_and_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import resource, sys\nfrom robolearn.cli.main import main\n"
        f"status = main({arguments!r})\nusage = resource.getrusage(resource.RUSAGE_SELF)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], status, usage.ru_utime + usage.ru_stime, file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    heavy, status, cpu_s = done.stderr.rsplit(" ", 2)
    assert heavy == "[]"
    assert status == "0"
    assert float(cpu_s) < 0.4
    assert all(f"  {verb} " in done.stdout for verb in entry.VERBS)


def test_every_verb_has_its_help(cli: Cli) -> None:
    for verb in entry.VERBS:
        with pytest.raises(SystemExit) as exit_:
            entry.main([verb, *(["reach", "--algo", "guess"] if verb == "train" else []), "--help"])
        assert exit_.value.code == 0


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"robolearn {__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "unknown verb 'trian'; did you mean 'train'?"),
        ("train raech", "unknown task 'raech'; did you mean 'reach'?"),
        ("train --task=raech", "unknown task 'raech'; did you mean 'reach'?"),
        ("train reach:esy", "unknown tier 'esy' of reach; did you mean 'easy'?"),
        ("train reach --algo gues", "unknown algo 'gues'; did you mean 'guess'?"),
        ("train reach --algo guess --stps 3", "unknown option '--stps'; did you mean '--steps'?"),
        ("train reach --algo guess --env.tolerence_mm 3", "did you mean '--env.tolerance-mm'?"),
        (
            "train reach --algo guess --policy.hiden=3",
            "unknown option '--policy.hiden'; did you mean '--policy.hidden'?",
        ),
        ("train reach --algo guess --steps many", "--steps: expected a whole number, got 'many'"),
        ("train reach --algo guess --env.tolerance-mm near", "--env.tolerance-mm: expected a number, got 'near'"),
        ("train reach --algo guess --obs pixel", "--obs: unknown value 'pixel'; did you mean 'pixels'?"),
        ("train reach --algo guess --env.corner 1", "Expected 2 values"),
        ("train reach --algo guess --robot fr3sim", "unknown robot 'fr3sim'; did you mean 'fr3_sim'?"),
        ("train reach --algo guess extra", "unexpected argument: extra"),
        ("train reach --task other", "two tasks are given: 'reach' and 'other'"),
        ("train reach:easy --tier default", "two tiers are given"),
        ("train --config", "--config: its value is missing"),
        ("train --config absent.yaml", "cannot read absent.yaml"),
        ("eval", "missing: RUN"),
        ("eval x --episodes 0", "--episodes: expected at least 1, got 0"),
        ("eval x --episode 3", "unknown option '--episode'; did you mean '--episodes'?"),
        ("record raech --out x", "unknown task 'raech'; did you mean 'reach'?"),
        ("record reach --out x --policy scrip", "--policy: unknown value 'scrip'; did you mean 'script'?"),
        ("rollout x --video film.avi", "expected a name that ends in .mp4"),
        ("buffer inf x", "unknown action 'inf' of buffer; did you mean 'info'?"),
        ("hal lss", "unknown action 'lss' of hal; did you mean 'ls'?"),
        ("tasks --jsno", "unknown option '--jsno'; did you mean '--json'?"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(cli: Cli, line: str, message: str) -> None:
    status, out, err = cli(*line.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("robolearn: error: ")
    assert message in err


@pytest.mark.parametrize("line", ["report nowhere", "buffer info nowhere", "buffer verify nowhere"])
def test_what_cannot_be_done_is_one_line_and_status_1(cli: Cli, line: str) -> None:
    status, out, err = cli(*line.split())
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "no" in err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("a\nb"), 2, "robolearn: error: a b\n"),
        (StoreError("disk full"), 1, "robolearn: error: disk full\n"),
        (OSError(28, "No space left on device", "run/x"), 1, "robolearn: error: run/x: No space left on device\n"),
        (KeyboardInterrupt(), 130, "robolearn: error: interrupted\n"),
    ],
)
def test_errors_become_exit_statuses(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("robolearn.cli.tasks.main", fail)
    assert cli("tasks") == (status, "", said)


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m robolearn.cli.main --help | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
