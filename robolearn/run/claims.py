"""What a run leases: its robots, and a share of a GPU or of the CPU for its learner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robolearn.hal.leases import Lease, LeaseTable, Request
from robolearn.hal.resources import Resource, probe_compute
from robolearn.run.config import TrainConfig
from robolearn.run.station import is_simulated, split_robot

_TTL_S = 10.0


def robot_ids(config: TrainConfig, root: Path) -> list[str]:
    """Ids of the run's robots.

    A robot with an instance name (``fr3_sim:bench1``) is one that others may ask for too. A simulated robot without a
    name belongs to the run directory, so that two runs do not disturb each other while nobody can drive one run twice.
    """
    driver, instance = split_robot(config.robot)
    base = f"{driver}:{instance}" if instance else f"{driver}:{root}"
    return [f"{base}/{index}" for index in range(config.robots)]


@contextmanager
def lease_for(config: TrainConfig, root: Path) -> Iterator[list[Lease]]:
    """Lease the robots of a run (first in the list, in order) and compute for its learner, all or nothing.

    Raises:
        LeaseError: somebody else holds one of them; the message names who, since when, and what to do.
    """
    with LeaseTable.default() as table:
        requests = []
        simulated = is_simulated(config.robot)
        for name in robot_ids(config, root):
            table.register(Resource(name, "robot", {"driver": split_robot(config.robot)[0]}, simulated=simulated))
            requests.append(Request(kind="robot", id=name))
        compute = probe_compute(config.device)
        table.register(compute)
        requests.append(Request(kind=compute.kind, id=compute.id, amount=min(1.0, compute.capacity)))
        with table.lease(requests, holder=f"train {root.name}", ttl_s=_TTL_S, wait_s=config.wait) as leases:
            yield leases
