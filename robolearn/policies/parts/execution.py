"""The choice of how plans of actions are executed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from robolearn.core.checks import at_least, positive
from robolearn.core.errors import ConfigError


@dataclass(frozen=True)
class Execution:
    """How plans are executed, see ``chunking``.

    Attributes:
        mode: receding, ensemble, realtime or naive.
        execute: s, actions of a plan that are executed before the next plan is begun (ensemble: one, always).
        delay: d, steps between the observation and the availability of its plan (naive and realtime). Emulated,
            exactly, unless ``threaded``; then it is what is expected, at least 1, before anything was measured.
        threaded: plan in a thread while actions are given out (naive and realtime), for robots in real time: a plan
            that is late never makes the robot wait, and what is late is measured, see ``ChunkPolicy.timing``. Where
            nothing is in real time, the delay is emulated, see ``emulated``.
        ensemble_decay: m of the weights exp(-m i) of the ensemble.
        guide_limit: largest guidance weight of realtime (beta in the paper).
    """

    mode: Literal["receding", "ensemble", "realtime", "naive"] = "receding"
    execute: int = 8
    delay: int = 0
    threaded: bool = False
    ensemble_decay: float = 0.01
    guide_limit: float = 5.0

    def __post_init__(self) -> None:
        at_least(self, 1, "execute", of="execution.")
        at_least(self, 0, "delay", of="execution.")
        if self.mode in ("receding", "ensemble") and (self.delay or self.threaded):
            given = "execution.threaded" if self.threaded else f"execution.delay {self.delay}"
            raise ConfigError(f"{given} does not go with mode {self.mode}; only with realtime and naive")
        if not math.isfinite(self.ensemble_decay):
            raise ConfigError(f"execution.ensemble_decay is {self.ensemble_decay}; it must be finite")
        positive(self, "guide_limit", of="execution.")

    @property
    def expected_delay(self) -> int:
        """d, which is at least 1 for plans made in a thread."""
        return max(self.delay, int(self.threaded))

    def emulated(self) -> Execution:
        """The same where no time passes while a policy thinks, in simulation that is not in real time: a thread would
        never be done in time, so that the delay expected of it is emulated."""
        return replace(self, threaded=False, delay=self.expected_delay) if self.threaded else self

    def check(self, horizon: int) -> None:
        """Whether plans of ``horizon`` actions can be executed like this: d <= s <= H - d.

        Raises:
            ConfigError: they cannot.
        """
        delay = self.expected_delay
        if self.mode != "ensemble" and self.execute > horizon - delay:
            less = f" less a delay of {delay}" if delay else ""
            raise ConfigError(
                f"execution.execute is {self.execute}; expected at most {horizon - delay}, the horizon of "
                f"{horizon}{less}"
            )
        if self.delay > self.execute:
            raise ConfigError(
                f"execution.delay is {self.delay}; expected at most execution.execute {self.execute}: a plan is begun "
                "when the one before it is available"
            )
