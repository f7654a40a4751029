from dataclasses import replace
from pathlib import Path

import pytest

from robolearn.core.errors import LeaseError
from robolearn.run.claims import lease_for, robot_ids
from robolearn.run.config import TrainConfig

CONFIG = TrainConfig(device="cpu")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})


def test_a_second_run_that_wants_the_same_robot_fails_and_says_who_has_it(tmp_path: Path) -> None:
    named = replace(CONFIG, robot="fr3_sim:bench1")
    with lease_for(named, tmp_path / "first") as leases:
        assert leases[0].resource == "fr3_sim:bench1/0"
        with pytest.raises(LeaseError, match="first") as refusal, lease_for(named, tmp_path / "second"):
            pass
        assert "--wait" in str(refusal.value)
    with lease_for(named, tmp_path / "second") as again:
        assert again[0].epoch > leases[0].epoch


def test_nobody_can_drive_one_run_directory_twice_but_two_runs_go_together(tmp_path: Path) -> None:
    with lease_for(CONFIG, tmp_path / "a"):
        with pytest.raises(LeaseError), lease_for(CONFIG, tmp_path / "a"):
            pass
        with lease_for(CONFIG, tmp_path / "b"):
            pass


def test_a_third_learner_does_not_fit_on_two_cores_and_takes_no_robot(tmp_path: Path) -> None:
    with lease_for(CONFIG, tmp_path / "a"), lease_for(CONFIG, tmp_path / "b"):
        with pytest.raises(LeaseError, match="cpu"), lease_for(CONFIG, tmp_path / "c"):
            pass
        named = replace(CONFIG, robot="fr3_sim:shared")
        with pytest.raises(LeaseError, match="cpu"), lease_for(named, tmp_path / "c"):
            pass
    with lease_for(replace(CONFIG, robot="fr3_sim:shared", robots=2), tmp_path / "c") as leases:
        assert [lease.resource for lease in leases[:2]] == robot_ids(
            replace(CONFIG, robot="fr3_sim:shared", robots=2), tmp_path / "c"
        )
