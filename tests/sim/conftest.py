"""A simulated arm in front of a task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sim_world import Make

from robolearn.sim.drivers import fr3_sim
from robolearn.sim.drivers.fr3_sim import Fr3Sim
from robolearn.sim.tasks import peg_insert


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Builds robot and task of a tier, of the task that the test module names ``TASK`` (``peg_insert`` where it names
    none); the robots are closed afterwards."""
    module = getattr(request.module, "TASK", peg_insert)
    robots: list[Fr3Sim] = []

    def build(tier: str = "default", *, obs: str = "state", **options: object) -> tuple:
        config = module.TIERS[tier]
        robots.append(fr3_sim.build(fr3_sim.Config(), scene=module.scene(config), **options))  # type: ignore[arg-type]
        return robots[-1], module.build(config, obs=obs)

    yield build
    for robot in robots:
        robot.close()
