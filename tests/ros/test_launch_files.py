"""Launch files against a recorder of the launch tool; their specs, and the files around them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import launch_recorder as recorder
import pytest
import yaml

import robolearn
from robolearn.core.errors import ConfigError
from robolearn.ros import specs

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
BOX = {"low": [0.3, -0.2, 0.0], "high": [0.6, 0.2, 0.4]}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with a real robot in its own namespace, and a simulated one."""
    robots: dict[str, Any] = {
        "left": {"driver": "ros2", "instance": "/cell/left", "host": {"model": "fr3", "workspace": BOX}},
        "mock": {"driver": "ros2", "simulated": True, "host": {"model": "fr3", "workspace": BOX}},
        "other": {"driver": "fake"},
    }
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"robots": robots}))
    monkeypatch.setenv("ROBOLEARN_SITE", str(path))
    return path


@pytest.fixture(autouse=True)
def no_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No site file of this machine plays a part."""
    empty = tmp_path / "none.yaml"
    empty.write_text("")
    monkeypatch.setenv("ROBOLEARN_SITE", str(empty))


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[recorder.Recorded]]:
    """Start a launch file by name, with arguments."""
    recorder.install(monkeypatch)
    return lambda name, **chosen: recorder.start(recorder.read(ROOT / "launch" / f"{name}.launch.py"), **chosen)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_is_described_and_closed_ones_have_choices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder.install(monkeypatch)
    arguments = recorder.declared(recorder.read(path))
    assert all(a["description"] and a["default_value"] is not None for a in arguments.values())
    for name in {"use_sim", "use_sim_time", "teleop", "log_level", "device"} & arguments.keys():
        assert arguments[name]["choices"], name
    if path.name != "learn.launch.py":
        assert {"namespace", "params_file", "log_level"} <= arguments.keys()


def test_by_default_a_simulated_arm_and_its_host_start(
    launch: Callable[..., list[recorder.Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    arm, host = launch("robot_host")
    assert [a.given["exec_name"] for a in (arm, host)] == ["sim_arm", "robot_host"]
    for node in (arm, host):
        assert node.given["executable"] == sys.executable
        assert node.given["namespace"] == "/fr3_1"
        assert isinstance(node.given["on_exit"], recorder.Shutdown)
        assert Path(node.given["additional_env"]["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()
    # A text must reach the node as a text, whatever it looks like in YAML.
    robot = host.given["parameters"][0]["robot"]
    assert (robot.args, robot.given) == (("fr3_sim",), {"value_type": str})


def test_a_real_robot_is_started_only_by_its_name_and_never_with_a_simulated_arm(
    launch: Callable[..., list[recorder.Recorded]], site: Path
) -> None:
    (host,) = launch("robot_host", robot="left")
    assert (host.given["exec_name"], host.given["namespace"]) == ("robot_host", "/cell/left")
    assert len(launch("robot_host", robot="mock")) == 2
    assert all(a.given["namespace"] == "/fr3_1" for a in launch("robot_host"))


def test_arguments_reach_the_nodes(launch: Callable[..., list[recorder.Recorded]], tmp_path: Path) -> None:
    params = tmp_path / "p.yaml"
    params.write_text("{}")
    nodes = launch(
        "robot_host", robots="2", namespace="arm_3", cameras="wrist, front", teleop="joy", params_file=str(params),
        log_level="debug",
    )  # fmt: skip
    assert [(n.given["exec_name"], n.given["namespace"]) for n in nodes] == [
        (name, space) for space in ("/arm_3", "/arm_4") for name in ("sim_arm", "robot_host", "teleop")
    ]
    for node in nodes:
        assert node.given["parameters"][-1] == str(params)
        assert node.given["ros_arguments"] == ["--log-level", "debug"]
    assert nodes[0].given["parameters"][0]["cameras"] == ["wrist", "front"]


def test_the_profile_of_the_user_is_left_alone(
    launch: Callable[..., list[recorder.Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    assert "FASTDDS_DEFAULT_PROFILES_FILE" not in launch("sim_arm")[0].given["additional_env"]


def test_learning_is_a_plain_process(launch: Callable[..., list[recorder.Recorded]]) -> None:
    (action,) = launch("learn", task="peg_insert", tier="smoke", robot="ros2:/fr3_1", args="--seed 3 --realtime")
    assert isinstance(action, recorder.ExecuteProcess)
    line = action.given["cmd"]
    assert line[:4] == [sys.executable, "-m", "robolearn.cli.main", "train"]
    assert "peg_insert:smoke" in line
    assert "--ros-args" not in line
    assert line[-3:] == ["--seed", "3", "--realtime"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"robot": "fr3_smi"}, "unknown robot 'fr3_smi'; did you mean 'fr3_sim'"),
        ({"robot": "other"}, "expected driver: ros2 and a host: mapping"),
        ({"robot": "left", "use_sim": "true"}, "robot left is real"),
        ({"use_sim": "false"}, "robot fr3_sim is simulated"),
        ({"robot": "left", "robots": "2"}, "only simulated ones are many"),
        ({"robots": "two"}, "robots: expected a whole number, got 'two'"),
        ({"namespace": "a b"}, "namespace: expected letters"),
        ({"namespace": "/a//b"}, "namespace: expected letters"),
        ({"cameras": "wrist,,front"}, "cameras: expected names"),
        ({"params_file": "absent.yaml"}, "params_file: no such file"),
    ],
)
def test_a_wrong_value_is_one_line(
    launch: Callable[..., list[recorder.Recorded]], site: Path, chosen: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        launch("robot_host", **chosen)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_host_that_contradicts_the_site_is_refused(site: Path) -> None:
    data = yaml.safe_load(site.read_text())
    data["robots"]["left"]["host"]["simulated"] = True
    site.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="simulated differs"):
        specs.robot_host(robot="left")


def test_a_command_line_says_what_the_spec_says(tmp_path: Path) -> None:
    params = tmp_path / "p.yaml"
    params.write_text("{}")
    spec = specs.NodeSpec(
        "x", "n", "/a", "m", {"text": "1", "flag": True, "list": ["a"], "number": 0.5}, str(params), (("in", "out"),)
    )
    line = specs.command(spec)
    given = dict(line[i + 1].split(":=", 1) for i, word in enumerate(line) if word == "-p")
    assert {name: yaml.safe_load(value) for name, value in given.items()} == dict(spec.parameters)
    assert {line[i + 1] for i, word in enumerate(line) if word == "-r"} == {"__ns:=/a", "__node:=n", "in:=out"}
    # The last one wins in ROS, and the user's file is to win.
    assert line.index("--params-file") > max(i for i, word in enumerate(line) if word == "-p")


def test_a_child_gets_both_variables_of_the_ros_wheels_or_neither() -> None:
    guard, libraries = "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH"
    (spec,) = specs.sim_arm()
    whole = specs.environment(spec, {guard: "1", libraries: "/x"})
    assert (whole[guard], whole[libraries]) == ("1", "/x")
    assert guard not in specs.environment(spec, {guard: "1"})
    assert specs.environment(spec, {"OMP_NUM_THREADS": "2"})["OMP_NUM_THREADS"] == "2"


def test_everything_ros_looks_for_is_installed_and_there() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    assert any(isinstance(node, ast.Constant) and node.value == "lib/robolearn" for node in ast.walk(tree))
    every = [*specs.robot_host(teleop="joy"), *specs.learn()]
    for spec in every:
        script = ROOT / "scripts" / spec.executable
        assert os.access(script, os.X_OK), script
        assert spec.module in script.read_text()
        assert (ROOT / (spec.module.replace(".", "/") + ".py")).is_file(), spec.module
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert (
        package.findtext("name")
        == "robolearn"
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    )
    assert package.findtext("version") == robolearn.__version__
    assert package.findtext("export/build_type") == "ament_python"


def test_the_example_of_parameters_is_one_the_host_takes() -> None:
    from robolearn.ros.host_config import host_config

    data = yaml.safe_load((ROOT / "robolearn" / "ros" / "config" / "robot_host.yaml").read_text())
    given = data["/**/robot_host"]["ros__parameters"]
    flat = {f"motion.{key}": value for key, value in given.pop("motion").items()} | given
    config = host_config("fr3_sim", "", flat)
    assert (config.motion.velocity, config.force) == (0.2, 40.0)


@pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the ros2 command (a ROS 2 installation)")
@pytest.mark.ros
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_real_launch_tool_shows_the_arguments(path: Path) -> None:
    shown = subprocess.run(
        ["ros2", "launch", str(path), "--show-args"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "default" in shown.stdout


@pytest.mark.slow
def test_a_wheel_has_what_ros_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = pytest.importorskip("ament_index_python.packages")
    pytest.importorskip("setuptools", minversion="77")
    leave = shutil.ignore_patterns(".*", "runs", "build", "bench", "tests", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=leave)
    line = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*line, "-w", str(tmp_path), str(source)], check=True, timeout=150)
    (wheel,) = tmp_path.glob("*.whl")
    prefix, head = tmp_path / "prefix", f"robolearn-{robolearn.__version__}.data/data/"
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            if item.filename.startswith(head):
                target = prefix / item.filename.removeprefix(head)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(item))
                target.chmod(item.external_attr >> 16 & 0o777)
        shipped = set(archive.namelist())
    data = [path for path in (ROOT / "robolearn").rglob("*") if path.suffix in (".yaml", ".xml", ".css")]
    assert {str(path.relative_to(ROOT)) for path in data} <= shipped

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    share = Path(packages.get_package_share_directory("robolearn"))
    assert sorted(path.name for path in (share / "launch").iterdir()) == [path.name for path in FILES]
    assert {"fastdds_profile.xml", "robot_host.yaml"} <= {path.name for path in (share / "config").iterdir()}
    executables = Path(packages.get_package_prefix("robolearn")) / "lib" / "robolearn"
    assert all(os.access(executables / name, os.X_OK) for name in ("robot_host", "sim_arm", "teleop", "learn"))
