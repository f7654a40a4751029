"""What a run leases, what becomes of robots that fail, and who may stand in for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_fixture import install

from robolearn.core.errors import LeaseError, RobolearnError, RobotStoppedError
from robolearn.hal.lease_types import Request
from robolearn.hal.leases import LeaseTable
from robolearn.hal.liveness import ProcessId
from robolearn.hal.resources import Resource
from robolearn.run.borrow import borrowed
from robolearn.run.children import Child
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.fleet import Fleet
from robolearn.run.place import SHARED_TTL_S, LocalScheduler
from robolearn.run.roles import plan

CONFIG = TrainConfig(device="cpu")


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr("robolearn.run.robots.found_robots", list)
    return install(monkeypatch, tmp_path)


@contextmanager
def started(root: Path, config: TrainConfig = CONFIG, **changes: Any) -> Iterator[LocalScheduler]:
    """A run with its leases."""
    config = complete(replace(config, **changes))
    with LocalScheduler(plan(config, root), holder=f"train {root.name}") as scheduler:
        scheduler.place()
        yield scheduler


def state(name: str) -> str:
    with LeaseTable.default() as table:
        return next(row.state for row in table.status() if row.resource.id == name)


def robots(scheduler: LocalScheduler) -> list[str]:
    return [place.resource for place in scheduler.places() if place.grant]


def know(*instances: str, **labels: str) -> None:
    """Robots that somebody made known."""
    with LeaseTable.default() as table:
        for name in instances:
            simulated = not name.startswith("real")
            table.register(Resource(f"bench:{name}", "robot", {"driver": "bench", **labels}, simulated=simulated))


def test_every_role_has_a_place_and_robots_beat_fast(tmp_path: Path) -> None:
    with started(tmp_path / "run", robot="bench:a,b") as scheduler:
        rows = [place.row() for place in scheduler.places()]
        assert [row["role"] for row in rows] == ["actor0", "actor1", "learner", "sealer"]
        assert [row["resource"] for row in rows][:2] == ["bench:a", "bench:b"]
        assert [row["share"] for row in rows] == ["whole", "whole", "1 of 2", "-"]
        grants = scheduler.grants()
        assert [grant.ttl_s for grant in grants] == [SHARED_TTL_S] * 2
        assert all(grant.shared and grant.epoch for grant in grants)
    assert (state("bench:a"), state("bench:b")) == ("free", "free")


def test_a_second_run_that_wants_the_same_robot_fails_and_says_who_has_it(tmp_path: Path) -> None:
    with started(tmp_path / "first", robot="bench:a") as first:
        with pytest.raises(LeaseError, match="first") as refusal, started(tmp_path / "second", robot="bench:a"):
            pass
        assert "--wait" in str(refusal.value)
    with started(tmp_path / "second", robot="bench:a") as again:
        assert again.grants()[0].epoch > first.plan.roles[0].needs[0].amount
        assert again.grants()[0].robot == "bench:a"


def test_nobody_can_drive_one_run_directory_twice_but_two_runs_go_together(tmp_path: Path) -> None:
    with started(tmp_path / "a") as first:
        assert [grant.robot for grant in first.grants()] == ["fr3_sim"]
        with pytest.raises(LeaseError), started(tmp_path / "a"):
            pass
        with started(tmp_path / "b"):
            pass


def test_a_third_learner_does_not_fit_on_two_cores_and_takes_no_robot(tmp_path: Path) -> None:
    with started(tmp_path / "a"), started(tmp_path / "b"):
        for robot in ("fr3_sim", "bench:a"):
            with pytest.raises(LeaseError, match="cpu"), started(tmp_path / "c", robot=robot):
                pass
    with started(tmp_path / "c", robot="bench:a") as third:
        assert robots(third) == ["bench:a"]


def test_an_outlook_says_what_is_free_and_why_not_and_leases_nothing(tmp_path: Path) -> None:
    config = complete(replace(CONFIG, robot="bench:a,b"))
    with LocalScheduler(plan(config, tmp_path / "x"), holder="look") as scheduler:
        assert [(entry.resource, entry.why) for entry in scheduler.outlook()][:2] == [("bench:a", ""), ("bench:b", "")]
    with LeaseTable.default() as table:
        assert not [row for row in table.status() if row.resource.kind == "robot"]
    with started(tmp_path / "run", robot="bench:b"), LocalScheduler(plan(config, tmp_path / "x"), holder="me") as other:
        first, second, _ = other.outlook()
        assert (first.resource, first.why) == ("bench:a", "")
        assert second.resource == ""
        assert "train run" in second.why


def test_any_robot_with_the_labels_will_do_and_private_copies_never_do(tmp_path: Path) -> None:
    know("a", site="A")
    know("b", "c", site="B")
    with started(tmp_path / "own"), started(tmp_path / "run", robot="bench", robot_labels="site=B", robots=2) as run:
        assert sorted(robots(run)) == ["bench:b", "bench:c"]
        with (
            LocalScheduler(
                plan(complete(replace(CONFIG, robot="", robot_labels="driver=fr3_sim")), tmp_path), holder="x"
            ) as other,
            pytest.raises(LeaseError, match="labels"),
        ):
            other.place()


def test_a_stopped_robot_is_quarantined_and_replaced_by_a_spare_then_by_an_equal(tmp_path: Path) -> None:
    know("d")
    with started(tmp_path / "run", robot="bench:a,b,c", robots=2) as run:
        place = run.replace("actor0", "it stopped", quarantine=True)
        assert place is not None
        assert (place.role, place.resource, state("bench:a")) == ("actor0", "bench:c", "quarantined")
        assert robots(run) == ["bench:c", "bench:b"]
        assert run.lost() == {}
        other = run.replace("actor1", "so did this", quarantine=True)
        assert other is not None
        assert other.resource == "bench:d"
        assert run.replace("actor0", "and this", quarantine=True) is None
        assert robots(run) == ["bench:d"]
    assert [state(f"bench:{name}") for name in "abcd"] == ["quarantined"] * 3 + ["free"]


def test_a_real_robot_that_nobody_asked_for_does_not_begin_to_move(tmp_path: Path) -> None:
    know("real_b", "sim_c", site="A")
    with started(tmp_path / "named", robot="bench:real_a") as run:
        assert run.replace("actor0", "it stopped", quarantine=True) is None
    know("real_d", "real_e", site="B")
    with started(tmp_path / "labels", robot="bench", robot_labels="site=B") as run:
        place = run.replace("actor0", "it stopped", quarantine=True)
        assert place is not None
        assert place.resource == "bench:real_e"


def test_a_spare_whose_check_fails_is_passed_over(tmp_path: Path, bench: Path) -> None:
    (bench / "b.broken").touch()
    with started(tmp_path / "run", robot="bench:a,b,c", robots=1) as run:
        place = run.replace("actor0", "it stopped", quarantine=True)
        assert place is not None
        assert place.resource == "bench:c"


def hold_and_vanish(name: str, *, simulated: bool = True) -> None:
    """Somebody, alive as far as anybody can tell, leased a robot and fell silent."""
    elsewhere = replace(ProcessId.current(), space="another container", pid=1)
    with LeaseTable(LeaseTable.default().path, me=elsewhere) as table:
        table.register(Resource(name, "robot", {"driver": "bench"}, simulated=simulated))
        table.acquire(Request("robot", name), holder="vanished", ttl_s=1e-6)


def test_a_suspect_simulated_robot_is_checked_and_taken_and_a_real_one_waits_for_a_person(
    tmp_path: Path, bench: Path
) -> None:
    hold_and_vanish("bench:a")
    (bench / "a.broken").touch()
    with pytest.raises(LeaseError, match="check failed: arm: broken"), started(tmp_path / "run", robot="bench:a"):
        pass
    (bench / "a.broken").unlink()
    with started(tmp_path / "run", robot="bench:a") as run:
        assert robots(run) == ["bench:a"]
    hold_and_vanish("bench:real_a", simulated=False)
    with pytest.raises(LeaseError, match="hal clear bench:real_a"), started(tmp_path / "real", robot="bench:real_a"):
        pass


def test_a_lost_lease_of_a_simulated_robot_is_taken_anew_and_nobody_elses_is_touched(tmp_path: Path) -> None:
    with started(tmp_path / "run", robot="bench:a") as run:
        before = run.grants()[0].epoch
        lease = run._leases["actor0"]
        lease.lost = "its holder stopped sending heartbeats"
        with LeaseTable.default() as table:
            table._store.suspect("bench:a", lease.epoch, lease.lost)
        place = run.replace("actor0", lease.lost, quarantine=False)
        assert place is not None
        assert place.grant is not None
        assert (place.resource, place.grant.epoch > before) == ("bench:a", True)
        lease = run._leases["actor0"]
        lease.lost = "cleared by somebody"
        with LeaseTable.default() as table:
            table._store.suspect("bench:a", lease.epoch, lease.lost)
            table.clear("bench:a")
            table.acquire(Request("robot", "bench:a"), holder="another", ttl_s=60.0)
        assert run.replace("actor0", lease.lost, quarantine=True) is None
        assert state("bench:a") == "leased"


def fleet_of(run: LocalScheduler, events: list[str], *, steps: int = 0) -> Fleet:
    def event(what: str, *_: str, **__: object) -> None:
        events.append(what)

    return Fleet(run, shared=True, run="runs/x", steps=lambda: steps, event=event)


def test_a_fleet_goes_on_with_fewer_and_ends_with_none(tmp_path: Path) -> None:
    events: list[str] = []
    with started(tmp_path / "run", robot="bench:a,b") as run:
        fleet = fleet_of(run, events)
        assert fleet.substitute("actor1", RobotStoppedError("b stopped")) is None
        assert [place.resource for place in fleet.robots()] == ["bench:a"]
        with pytest.raises(RobotStoppedError, match="no robot is left") as end:
            fleet.substitute("actor0", RobotStoppedError("a stopped"))
        assert "hal check bench:a, then: robolearn hal clear bench:a" in str(end.value)
        assert "--resume runs/x" in str(end.value)
    assert events == ["robot quarantined", "no other robot is free, going on with fewer", "robot quarantined"]
    assert fleet.gone == ["bench:b", "bench:a"]


def test_processes_that_die_on_one_robot_after_another_are_not_the_robots_fault(tmp_path: Path) -> None:
    with started(tmp_path / "run", robot="bench:a,b,c", robots=1) as run:
        fleet = fleet_of(run, [])
        assert fleet.substitute("actor0", RobolearnError("dies again and again")) is not None
        with pytest.raises(RobolearnError, match="hardly the robot"):
            fleet.substitute("actor0", RobolearnError("dies again and again"))
    assert (state("bench:a"), state("bench:b")) == ("quarantined", "free")


def test_a_command_borrows_a_robot_and_is_refused_one_that_is_held(tmp_path: Path) -> None:
    named = replace(CONFIG, robot="bench:a")
    with borrowed(named, holder="eval run") as loan:
        assert [grant.robot for grant in loan.grants] == ["bench:a"]
        loan.guard(loan.grants[0])()
        with pytest.raises(LeaseError, match="eval run"), borrowed(named, holder="rollout run"):
            pass
        with LeaseTable.default() as table:
            table.quarantine("bench:a", "smoke")
        loan._scheduler._leases["robot0"].lost = "quarantined: smoke"  # type: ignore[union-attr]
        with pytest.raises(LeaseError, match="smoke"):
            loan.guard(loan.grants[0])()
    with borrowed(CONFIG, holder="eval run") as loan:
        assert loan.grants == []


def test_a_private_copy_that_latches_a_stop_ends_the_run(tmp_path: Path) -> None:
    with started(tmp_path / "run") as run:
        fleet = Fleet(run, shared=False, run="runs/x", steps=lambda: 0, event=lambda *_, **__: None)
        with pytest.raises(RobotStoppedError, match=r"look after it, then go on with: .*--resume runs/x"):
            fleet.failed(Child("actor0", 4, [], robot_of="actor0"), RobotStoppedError("force"))
