"""Run a learned policy and film it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array, Observation
from robolearn.run.act import Act, run_episode
from robolearn.run.borrow import on_robot
from robolearn.run.checkpoint import require_checkpoint
from robolearn.run.config import RunPaths
from robolearn.run.evaluate import POLICY, make_act
from robolearn.run.guard import Grant
from robolearn.run.rundir import load_config
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import Station, build_station
from robolearn.run.video import VideoWriter

_SIZE = (640, 480)


def rollout(
    run_dir: str | Path,
    *,
    video: str | Path | None,
    episodes: int = 1,
    seed: int = 0,
    robot: str = "",
    grant: Grant | None = None,
    hold: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run the newest policy of a run for some episodes; film it when ``video`` is given.

    Args:
        robot: a private copy of this one instead of the run's.
        grant: the leased robot; without it a private simulated copy.
        hold: returns when the robot may be moved.

    Raises:
        ConfigError: a video is asked for and the robot cannot be filmed.
        RobotStoppedError: the robot has latched a stop.
        LeaseError: the robot is no longer ours.
    """

    def going_on() -> bool:
        hold()
        return True

    paths = RunPaths(Path(run_dir).resolve())
    config = on_robot(load_config(paths), robot)
    weights = require_checkpoint(paths.checkpoints).policy
    station = build_station(config, grant)
    outcome: list[dict[str, Any]] = []
    with ExitStack() as policies, ExitStack() as stack:
        stack.callback(station.robot.close)
        act, reset, close = make_act(POLICY, config, station, seed, weights)
        policies.callback(close)  # after the robot: it may be planning
        film = stack.enter_context(_Film(station, Path(video))) if video is not None else None
        for index in range(episodes):
            reset()
            hold()
            shown = act if film is None else film.filmed(act, index)
            episode = run_episode(station, shown, stream(seed, Stream.ROLLOUT, index), before_step=going_on)
            if film is not None:
                film.add(f"episode {index + 1}   {'success' if episode.success else 'failure'}", seconds=1.0)
            outcome.append(
                {"success": episode.success, "steps": episode.steps, "peak_force_n": round(episode.peak_force_n, 2)}
            )
    return {
        "run": str(run_dir),
        "episodes": outcome,
        "successes": sum(o["success"] for o in outcome),
        "video": None if video is None else str(video),
    }


class _Film:
    """A video of what a station does, in real time."""

    def __init__(self, station: Station, path: Path) -> None:
        if station.film is None:
            raise ConfigError(f"{station.robot.spec.name} cannot be filmed; leave out --video")
        self._render, self._hz = station.film, station.task.spec.control_hz
        self._writer = VideoWriter(path, fps=self._hz, size=_SIZE)

    def __enter__(self) -> _Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._writer.close()
        else:
            self._writer.abandon()

    def filmed(self, act: Act, index: int) -> Act:
        """``act``, with a frame before each action."""

        def acting(observation: Observation, raw: Observation) -> Array:
            contact = f"   contact {float(raw['peak_force'][0]):4.1f} N" if "peak_force" in raw else ""
            self.add(f"episode {index + 1}{contact}")
            return act(observation, raw)

        return acting

    def add(self, caption: str, *, seconds: float = 0.0) -> None:
        """Show the present scene, at least one frame."""
        self._writer.add(self._render(*_SIZE), caption=caption, repeat=max(1, round(seconds * self._hz)))
