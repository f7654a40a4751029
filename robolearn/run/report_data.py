"""Everything a report needs, read from a run directory that may be unfinished."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError, ResumeError, StoreError
from robolearn.run.config import RunPaths
from robolearn.run.inventory import inventory
from robolearn.run.metrics import read_jsonl

Line = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """A run as its files tell it; what is not there yet is empty.

    Attributes:
        episodes, learner, curve, final: lines of ``metrics.jsonl`` by kind, in order of robot steps; ``final`` are the
            evaluations at the end.
        buffer: ``inventory`` of the replay buffer.
    """

    paths: RunPaths
    config: dict[str, Any]
    status: dict[str, Any]
    results: dict[str, Any]
    environment: dict[str, Any]
    command: str
    episodes: list[Line]
    learner: list[Line]
    curve: list[Line]
    final: list[Line]
    events: list[Line]
    buffer: dict[str, Any]
    videos: list[Path]

    @property
    def title(self) -> str:
        """``peg_insert:hard with rlpd``, ``gym:Pendulum-v1 with rlpd``."""
        which = (self.config.get("env") or {}).get("id") or self.config.get("tier")
        return f"{self.config.get('task')}:{which} with {self.config.get('algo')}"

    @property
    def utd_target(self) -> float | None:
        """Updates per robot step that were asked for."""
        policy = self.config.get("policy")
        value = self.status.get("utd_target") or (policy.get("utd") if isinstance(policy, dict) else None)
        return None if value is None else float(value)

    @property
    def seconds_per_step(self) -> float | None:
        """Robot seconds of one robot step."""
        for line in reversed([*self.episodes, *self.curve, *self.final]):
            if line.get("steps") and line.get("robot_s"):
                return float(line["robot_s"]) / float(line["steps"])
        return None


def read_run(run_dir: Path) -> RunData:
    """Read a run directory.

    Raises:
        ResumeError: the directory is no run, or its configuration cannot be read.
    """
    paths = RunPaths(run_dir.resolve())
    if not paths.config.is_file():
        raise ResumeError(f"{run_dir} is no run directory: it has no config.yaml")
    try:
        config = typed.load_yaml(paths.config)
    except ConfigError as error:
        raise ResumeError(str(error)) from error
    lines = sorted((line for line in read_jsonl(paths.metrics) if "steps" in line), key=lambda line: line["steps"])
    evaluations = [line for line in lines if line.get("kind") == "eval" and line.get("success") is not None]
    return RunData(
        paths=paths,
        config=config,
        status=_json(paths.status),
        results=_json(paths.results),
        environment=_json(paths.environment),
        command=paths.command.read_text(encoding="utf-8").strip() if paths.command.is_file() else "",
        episodes=[line for line in lines if line.get("kind") == "episode" and not line.get("interrupted")],
        learner=[line for line in lines if line.get("kind") == "learner"],
        curve=[line for line in evaluations if not line.get("final")],
        final=[line for line in evaluations if line.get("final")],
        events=read_jsonl(paths.events),
        buffer=_buffer(paths.buffer),
        videos=sorted(path for path in paths.videos.glob("*.mp4") if not path.name.startswith(".")),
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is absent or half-written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _buffer(path: Path) -> dict[str, Any]:
    try:
        return inventory(path)
    except StoreError as error:
        return {"problem": str(error)} if path.is_dir() and any(path.iterdir()) else {}
