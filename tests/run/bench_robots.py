"""A driver of robots that exist once, for tests: simulated arms that write a journal and fail when a file says so.

Files in ``$BENCH_HOME``: ``NAME.journal`` (a line ``time_ns epoch pid`` for each command), ``NAME.epoch`` (newest epoch
seen, as a real host keeps it), and, made by tests, ``NAME.stop``, ``NAME.crash`` and ``NAME.broken`` (check fails).
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robolearn.core.errors import RobolearnError, RobotStoppedError, StaleEpochError
from robolearn.core.spec import Array
from robolearn.core.types import Command
from robolearn.hal.check import Finding
from robolearn.sim.drivers import fr3_sim

SIMULATED = True
PERIOD_S = 0.005


@dataclass(frozen=True)
class Config:
    """Which one."""

    instance: str = ""


def of_instance(instance: str) -> Config:
    return Config(instance)


def simulated(instance: str) -> bool:
    return not instance.startswith("real")


def check(instance: str) -> list[Finding]:
    broken = _file(instance, "broken").exists()
    return [Finding("arm", not broken, "broken" if broken else "sound")]


def build(config: Config, *, scene: Any, cameras: tuple[str, ...] = (), realtime: bool = False) -> "Bench":
    if not realtime:
        raise RobolearnError("a robot that exists once cannot run faster than time")
    return Bench(config.instance, fr3_sim.build(fr3_sim.Config(), scene=scene, cameras=cameras))


def _file(instance: str, kind: str) -> Path:
    return Path(os.environ["BENCH_HOME"]) / f"{instance}.{kind}"


class Bench:
    """A simulated arm with a name."""

    def __init__(self, name: str, arm: fr3_sim.Fr3Sim) -> None:
        self._name, self._arm, self.spec = name, arm, arm.spec
        self.observe, self.clear, self.close, self.stop = arm.observe, arm.clear, arm.close, arm.stop

    def apply(self, command: Command) -> Array:
        kept = _file(self._name, "epoch")
        newest = int(kept.read_text()) if kept.exists() else 0
        if command.epoch < newest:
            raise StaleEpochError(f"epoch {command.epoch} is older than {newest}")
        kept.write_text(str(command.epoch))
        if _file(self._name, "crash").exists():
            os._exit(9)
        if _file(self._name, "stop").exists():
            raise RobotStoppedError("somebody pressed the button")
        with open(_file(self._name, "journal"), "a") as journal:
            journal.write(f"{time.monotonic_ns()} {command.epoch} {os.getpid()}\n")
        time.sleep(PERIOD_S)
        return self._arm.apply(command)

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        self._arm.reset(tcp_pose, scene)

    def take(self, epoch: int) -> None:
        self._arm.take(epoch)

    def timing(self) -> dict[str, float]:
        return {"latency_p99_ms": 1e3 * PERIOD_S}
