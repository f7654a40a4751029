"""Other runs' data in a run: the text of --data."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from robolearn.buffer.schema import Schema
from robolearn.buffer.store import open_store
from robolearn.core.errors import ConfigError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import TaskSpec
from robolearn.policies import expo, residual
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.demos import check_data, parse_data

TASK = TaskSpec("toy", {"state": ArraySpec("state", (2,))}, ArraySpec("action", (1,), low=-1.0, high=1.0), 10, 10.0)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    schema = Schema({"state": ArraySpec("state", (2,))}, ArraySpec("action", (1,)))
    open_store(tmp_path / "a" / "buffer", schema)  # a run
    open_store(tmp_path / "b", schema)  # a buffer
    return tmp_path


def test_filters_belong_to_the_directory_before_them(runs: Path) -> None:
    a, b = runs / "a", runs / "b"
    assert parse_data("") == []
    assert parse_data(f"{a}, {b}:success,intervention") == [(a / "buffer", ""), (b, "success,intervention")]
    assert parse_data(f"{b}:source=human|source=script,{a}") == [(b, "source=human|source=script"), (a / "buffer", "")]


def test_mistakes_are_named(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"no directory .*nowhere"):
        parse_data(f"{runs / 'nowhere'}")
    with pytest.raises(ConfigError, match="no directory success"):
        parse_data(f"{runs / 'b'},success")  # a filter without a colon
    with pytest.raises(StoreError, match="success"):
        parse_data(f"{runs / 'b'}:succes")
    (runs / "empty").mkdir()
    with pytest.raises(StoreError, match="no buffer"):
        parse_data(str(runs / "empty"))


@pytest.mark.parametrize(("family", "key"), [(residual, "base_action"), (expo, "candidates")])
def test_rows_of_another_policy_are_refused_before_the_run(tmp_path: Path, family: ModuleType, key: str) -> None:
    spec = family.stored(family.Config(), TASK)
    open_store(tmp_path / "based", Schema(spec.observation, spec.action))
    open_store(tmp_path / "plain", Schema(TASK.observation, TASK.action))
    check_data(TrainConfig(algo="rlpd", data=str(tmp_path / "plain")), TASK)
    with pytest.raises(ConfigError, match=rf"another policy added to them \({key}\).*--demos-from"):
        check_data(TrainConfig(algo="rlpd", data=f"{tmp_path / 'plain'},{tmp_path / 'based'}"), TASK)
    with pytest.raises(ConfigError, match="stores with each row what its base would do"):
        check_data(TrainConfig(algo="residual", data=str(tmp_path / "plain")), TASK)


def test_rows_of_another_task_are_refused_before_the_run(runs: Path) -> None:
    with pytest.raises(StoreError, match="another schema"):
        complete(TrainConfig(task="peg_insert", tier="smoke", algo="rlpd", demos=0, data=str(runs / "b")))
