"""What the supervisor knows of a run at a moment, from shared counters and the metrics file."""

from __future__ import annotations

from collections import deque
from typing import Any

from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.counters import Counters, Field, Row
from robolearn.run.metrics import JsonlTail

_RECENT = 30


class StatusBoard:
    """Builds ``status.json``."""

    def __init__(self, paths: RunPaths, config: TrainConfig, counters: Counters, *, utd_target: float) -> None:
        self._config, self._counters, self._utd_target = config, counters, utd_target
        self._tail = JsonlTail(paths.metrics)
        self._episodes: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._learner: dict[str, Any] = {}
        self._eval: dict[str, Any] = {}
        self._count = self._safety = 0
        self._mark: tuple[float, int] | None = None

    @property
    def safety_events(self) -> int:
        """Actions the safety layer altered, over all training episodes."""
        return self._safety

    def absorb(self) -> None:
        """Take in new metrics."""
        for line in self._tail.read():
            if line["kind"] == "episode":
                self._episodes.append(line)
                self._count += 1
                self._safety += line["safety_events"]
            elif line["kind"] == "learner":
                self._learner = line
            elif line["kind"] == "eval":
                self._eval = line

    def status(self, state: str, *, elapsed_s: float, restarts: int, message: str = "") -> dict[str, Any]:
        """The current status."""
        self.absorb()
        config, counters = self._config, self._counters
        steps, seen = counters.actor_steps(), counters.get(Row.LEARNER, Field.STEPS)
        updates = counters.get(Row.LEARNER, Field.UPDATES)
        finished = [e for e in self._episodes if not e["interrupted"]]
        autonomous = [e["success"] and e["interventions"] == 0 for e in finished]
        last = self._episodes[-1] if self._episodes else {}
        return {
            "state": state,
            "task": config.task,
            "tier": getattr(config.env, "id", "") or config.tier,
            "algo": config.algo,
            "seed": config.seed,
            "steps": steps,
            "total_steps": config.steps,
            "robot_s": counters.robot_seconds(),
            "updates": updates,
            "utd": round(updates / seen, 2) if seen else 0.0,
            "utd_target": self._utd_target,
            "episodes": self._count,
            "success_recent": sum(autonomous) / len(autonomous) if autonomous else None,
            "intervention_rate": sum(e["interventions"] for e in finished) / len(finished) if finished else None,
            "staleness_versions": last.get("staleness_versions"),
            "staleness_s": last.get("staleness_s"),
            "eval_success": self._eval.get("success"),
            "eval_low": self._eval.get("wilson_low"),
            "eval_high": self._eval.get("wilson_high"),
            "eval_steps": self._eval.get("steps"),
            "elapsed_s": round(elapsed_s, 1),
            "eta_s": self._eta(steps, elapsed_s),
            "restarts": restarts,
            "version": counters.get(Row.LEARNER, Field.VERSION),
            "learner": {key: self._learner[key] for key in ("q_mean", "critic_loss") if key in self._learner},
            "message": message,
        }

    def _eta(self, steps: int, elapsed_s: float) -> float | None:
        if self._mark is None:
            if steps:
                self._mark = (elapsed_s, steps)
            return None
        seconds, done = elapsed_s - self._mark[0], steps - self._mark[1]
        return round(seconds / done * max(self._config.steps - steps, 0), 1) if done > 0 else None
