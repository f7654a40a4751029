"""Run directories: two that start at once never share one."""

import threading
from pathlib import Path

import pytest

from robolearn.core.errors import ConfigError
from robolearn.run import rundir
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig


def test_many_at_once_get_a_directory_each_and_unused_ones_go_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    together, got, free = threading.Barrier(8), list[Path](), threading.Event()

    def claim() -> None:
        together.wait()
        with rundir.claimed("peg") as path:
            got.append(path)
            free.wait()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(got) < 8 and any(thread.is_alive() for thread in threads):
        pass
    (tmp_path / "runs" / "peg-3" / "config.yaml").touch()
    free.set()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in got) == [f"peg-{n}" for n in range(1, 9)]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["peg-3"]


def test_a_directory_that_another_run_makes_just_now_is_refused(tmp_path: Path) -> None:
    config = complete(TrainConfig(tier="smoke", run_dir=str(tmp_path / "run")))
    rundir.create(config, ["train"])
    with pytest.raises(ConfigError, match="not empty"):
        rundir.create(config, ["train"])


def test_a_claimed_directory_can_be_made_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = complete(TrainConfig(tier="smoke"))
    with rundir.claimed(rundir.stem_of(config)) as path:
        paths = rundir.create(TrainConfig(**{**vars(config), "run_dir": str(path)}), ["train"])
    assert paths.config.is_file()
    assert rundir.default_run_dir(config).name == "peg_insert-smoke-rlpd-2"
