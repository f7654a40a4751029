"""The site file: what it declares, and what is refused."""

from pathlib import Path

import pytest

from robolearn.core.errors import ConfigError
from robolearn.hal import site
from robolearn.hal.probes import site_file

GOOD = """
robots:
  left:
    driver: ros2
    labels: {bench: A}
    host: {model: fr3, workspace: {low: [0.3, -0.3, 0.0], high: [0.7, 0.3, 0.5]}}
  copy: {driver: ros2, instance: /sim/copy, simulated: true}
  toy: {driver: fake}
cameras:
  side: {device: /dev/video0, labels: {view: side}}
  wrist: {topic: /left/wrist/image_raw}
teleop:
  mouse: {type: spacemouse}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text(GOOD)
    return tmp_path / "site.yaml"


def test_everything_declared_is_a_resource(path: Path) -> None:
    place = site.load(path)
    found = {resource.id: resource for resource in place.resources()}
    assert list(found) == [
        "ros2:/left",
        "ros2:/sim/copy",
        "fake:toy",
        "camera:side",
        "camera:wrist",
        "spacemouse:mouse",
    ]
    assert found["ros2:/left"].labels == {"model": "fr3", "bench": "A", "name": "left", "driver": "ros2"}
    assert [found[name].simulated for name in ("ros2:/left", "ros2:/sim/copy", "fake:toy")] == [False, True, False]
    assert found["camera:wrist"].labels == {"name": "wrist", "topic": "/left/wrist/image_raw"}
    assert found["spacemouse:mouse"].kind == "teleop"
    assert place.robot("left") is place.robot("ros2:/left")
    assert place.robot("left").host is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "robots: {a: {driver: ros2}}",
            r"robots\.a\.host\.workspace: missing for real hardware, expected low and high",
        ),
        ("robots: {a: {driver: ros2, host: {workspace: {low: [0, 0, 0]}}}}", r"robots\.a\.host\.workspace: missing"),
        ("robots: {a: {driver: ros3}}", r"robots\.a\.driver: unknown robot 'ros3'; did you mean 'ros2'"),
        ("robots: {a: {instance: /x}}", r"robots\.a\.driver: missing, expected a text"),
        (
            "robots: {a: {driver: fake, simulatd: true}}",
            r"unknown key 'robots\.a\.simulatd'; did you mean '.*simulated'",
        ),
        ("robots: {a: {driver: fake, simulated: 1}}", r"robots\.a\.simulated: expected true or false, got 1"),
        ("robots: {a: {driver: fake, labels: {bench: 3}}}", r"robots\.a\.labels\.bench: expected a text, got 3"),
        ("robots: {a: {driver: fake, instance: x}, b: {driver: fake, instance: x}}", r"fake:x is robots\.a already"),
        ("robots: [a]", r"robots: expected a mapping of names to values"),
        ("robot: {}", r"unknown key 'robot'; did you mean 'robots'"),
        ("cameras: {c: {}}", r"cameras\.c: give either device or topic"),
        ("cameras: {c: {device: /dev/video0, topic: /t}}", r"cameras\.c: give either device or topic"),
        ("robots: {a: {driver: fake}, a: {driver: fake}}", r"line 1: key 'a' is given twice"),
        ("robots: {", r"line 1"),
        ("- a", r"expected a mapping"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        site.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert site_file.probe(path).problem == str(caught.value)


def test_unknown_robots_are_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"site\.yaml: unknown robot 'lefft'; did you mean 'left'"):
        site.load(path).robot("lefft")
    with pytest.raises(ConfigError, match="there is no site file; write one"):
        site.Site().robot("left")


def test_where_the_file_is_looked_for(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    (home / ".config" / "robolearn").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(site, "candidates", lambda environment: [p for p in real(environment) if "/etc" not in str(p)])
    assert site.load(environment={}) == site.Site()
    assert site_file.probe().resources == ()
    (home / ".config" / "robolearn" / "site.yaml").write_text("robots: {home: {driver: fake}}")
    assert list(site.load(environment={}).robots) == ["home"]
    (elsewhere / "site.yaml").write_text("robots: {here: {driver: fake}}")
    assert list(site.load(environment={}).robots) == ["here"]
    assert "left" in site.load(environment={"ROBOLEARN_SITE": str(path)}).robots
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml"):
        site.load(environment={"ROBOLEARN_SITE": str(tmp_path / "absent.yaml")})


real = site.candidates
