"""A simulated arm in front of a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from robolearn.sim.drivers import fr3_sim
from robolearn.sim.drivers.fr3_sim import Fr3Sim
from robolearn.sim.tasks import peg_insert
from robolearn.sim.tasks.peg_insert import PegInsert


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Fr3Sim, PegInsert]]]:
    """Builds robot and task of a tier; the robots are closed afterwards."""
    robots: list[Fr3Sim] = []

    def build(tier: str = "default", *, obs: str = "state", **options: object) -> tuple[Fr3Sim, PegInsert]:
        config = peg_insert.TIERS[tier]
        robots.append(fr3_sim.build(fr3_sim.Config(), scene=peg_insert.scene(config), **options))  # type: ignore[arg-type]
        return robots[-1], peg_insert.build(config, obs=obs)  # type: ignore[arg-type]

    yield build
    for robot in robots:
        robot.close()
