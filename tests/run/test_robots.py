"""Which robots a run means."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench_fixture import install

from robolearn.core import plugins
from robolearn.core.errors import ConfigError
from robolearn.run.complete import complete, remarks
from robolearn.run.config import TrainConfig
from robolearn.run.robots import choose, parse_labels, reference, shared

CONFIG = TrainConfig(device="cpu")
SITE = """
robots:
  fr3_left: {driver: bench, instance: left, simulated: true, labels: {site: labA, model: fr3}}
  fr3_right: {driver: bench, instance: real_right, simulated: false, labels: {site: labA, model: fr3}}
"""


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    home = install(monkeypatch, tmp_path)
    monkeypatch.setenv("ROBOLEARN_SITE", str(site))
    return home


def names(robot: str, robots: int = 0) -> tuple[list[str], int]:
    choice = choose(replace(CONFIG, robot=robot, robots=robots))
    return [ref.name for ref in choice.named], choice.count


@pytest.mark.parametrize(
    ("robot", "robots", "expected", "count"),
    [
        ("bench:/fr3_1", 0, ["bench:/fr3_1"], 1),
        ("bench:/fr3_1", 3, ["bench:/fr3_1", "bench:/fr3_2", "bench:/fr3_3"], 3),
        ("bench:arm09", 2, ["bench:arm09", "bench:arm10"], 2),
        ("bench:a,b", 0, ["bench:a", "bench:b"], 2),
        ("bench:a1,a3", 4, ["bench:a1", "bench:a3", "bench:a4", "bench:a5"], 4),
        ("bench:a3,a2", 3, ["bench:a3", "bench:a2", "bench:a4"], 3),
        ("bench:a,b,c", 2, ["bench:a", "bench:b", "bench:c"], 2),
        ("fr3_left", 0, ["bench:left"], 1),
        ("fr3_left,fr3_right", 0, ["bench:left", "bench:real_right"], 2),
    ],
)
def test_names_count_on_and_those_not_needed_are_spares(
    robot: str, robots: int, expected: list[str], count: int
) -> None:
    assert names(robot, robots) == (expected, count)


@pytest.mark.parametrize(
    ("robot", "robots", "message"),
    [
        ("bench:left", 2, "cannot be counted on"),
        ("bench:a", 2, "name all of them"),
        ("fr3_left", 2, "cannot be counted on"),
        ("bench:a,a", 0, "different instances"),
        ("bench:", 0, "different instances"),
        ("fr3_lefty", 0, "did you mean 'fr3_left'"),
        ("bensh:a", 0, "did you mean 'bench'"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused(robot: str, robots: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        names(robot, robots)


def test_who_is_simulated_is_said_by_site_file_or_driver() -> None:
    assert reference("bench:left").simulated
    assert not reference("bench:real_one").simulated
    assert not reference("fr3_right").simulated
    assert reference("bench:left").labels == {"site": "labA", "model": "fr3", "name": "fr3_left"}


def test_labels() -> None:
    assert parse_labels(" site=labA, model=fr3 ") == {"site": "labA", "model": "fr3"}
    for wrong in ("site", "=labA", "site="):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            parse_labels(wrong)
    choice = choose(replace(CONFIG, robot="bench", robot_labels="site=labA", robots=2))
    assert [dict(request.labels) for request in choice.requests(Path("x"))] == [{"site": "labA", "driver": "bench"}] * 2
    with pytest.raises(ConfigError, match="name the driver only"):
        choose(replace(CONFIG, robot="bench:a", robot_labels="site=labA"))


def test_real_hardware_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_robots

    monkeypatch.setattr(bench_robots, "SIMULATED", False)
    with pytest.raises(ConfigError, match="bench:INSTANCE"):
        complete(replace(CONFIG, robot="bench"))


def test_robots_that_exist_once_run_in_real_time_without_curve_and_experts_unless_asked() -> None:
    private = complete(CONFIG)
    assert (private.robots, private.realtime, private.eval_every, private.eval_experts) == (1, False, 1000, True)
    assert not shared(private)
    assert remarks(private) == []
    once = complete(replace(CONFIG, robot="bench:a,b"))
    assert (once.robots, once.realtime, once.eval_every, once.eval_experts) == (2, True, 0, False)
    assert shared(once)
    assert "--eval-every" in " ".join(remarks(once))
    asked = complete(replace(CONFIG, robot="bench:a", eval_every=500, eval_experts=True))
    assert (asked.eval_every, asked.eval_experts) == (500, True)
    assert "every 500 steps" in " ".join(remarks(asked))


def test_robots_that_probes_find_are_known_to_requests_by_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.GROUPS, "probe", ("robolearn.hal.probes",))
    choice = choose(replace(CONFIG, robot="", robot_labels="site=labA"))
    found = {resource.id: resource for resource in choice.resources(Path("x"))}
    assert {"bench:left", "bench:real_right"} <= found.keys()
    assert found["bench:left"].simulated
    assert found["bench:left"].labels["driver"] == "bench"
