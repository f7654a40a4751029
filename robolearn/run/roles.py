"""The roles of a run, and what each needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robolearn.core import plugins
from robolearn.hal.lease_types import Request
from robolearn.hal.resources import Resource, probe_compute
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Row
from robolearn.run.robots import Choice, choose

Need = Request
"""What a role needs of the pool: kind, one id or labels, and how much."""


@dataclass(frozen=True)
class Role:
    """One process of a run.

    Attributes:
        name: as in metrics and events.
        row: its row of the shared counters.
        arguments: of ``python -m robolearn.run.worker RUN``.
        needs: what must be leased for it; nothing for roles that take what is left.
    """

    name: str
    row: int
    arguments: tuple[str, ...]
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run asks of a scheduler.

    Attributes:
        roles: in the order in which they are placed.
        choice: its robots.
        compute: the GPU or CPU of its learner.
    """

    root: Path
    roles: tuple[Role, ...]
    choice: Choice
    compute: Resource | None


def plan(config: TrainConfig, root: Path) -> Plan:
    """Roles of a run: one for each robot, a learner, an evaluator of the learning curve, a sealer.

    Raises:
        ConfigError: the robots cannot be what is asked for.
        MissingDependencyError: there is no GPU, and one is asked for.
    """
    choice, compute = choose(config), probe_compute(config.device)
    online = bool(plugins.load("policy", config.algo).ONLINE)
    name = "actor" if online else "examiner"
    roles = [
        Role(f"{name}{i}", Row.ACTORS + i, ("actor", str(i)), (need,)) for i, need in enumerate(choice.requests(root))
    ]
    share = Need(compute.kind, compute.id, amount=min(1.0, compute.capacity))
    roles.append(Role("learner", Row.LEARNER, ("learner",), (share,)))
    if online and config.eval_every and choice.private:
        roles.append(Role("evaluator", Row.EVALUATOR, ("evaluator",)))
    roles.append(Role("sealer", Row.SEALER, ("sealer",)))
    return Plan(root, tuple(roles), choice, compute)


def borrowing(config: TrainConfig) -> Plan:
    """Robots alone, for a command that evaluates, films or records on them."""
    choice, root = choose(config), Path()
    roles = tuple(Role(f"robot{i}", Row.ACTORS + i, (), (need,)) for i, need in enumerate(choice.requests(root)))
    return Plan(root, roles, choice, None)
