"""What ROS 2 looks for beside the Python package; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup


def _files(pattern: str) -> list[str]:
    return sorted(map(str, Path().glob(pattern)))


setup(
    # Here and not in pyproject.toml, which colcon cannot read it from.
    python_requires=">=3.11",
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/robolearn"]),
        ("share/robolearn", ["package.xml"]),
        ("share/robolearn/launch", _files("launch/*.launch.py")),
        ("share/robolearn/config", _files("robolearn/ros/config/*")),
        # ros2 run looks here, and the launch tool calls a package without it incomplete.
        ("lib/robolearn", [f"scripts/{name}" for name in ("robot_host", "sim_arm", "teleop", "learn")]),
    ],
)
