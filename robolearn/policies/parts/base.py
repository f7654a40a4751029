"""The policy that another one starts from: loaded once, frozen, asked at every control step."""

from __future__ import annotations

import numpy as np

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, ResumeError
from robolearn.core.protocols import Policy
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Base, TaskSpec


def load_base(base: Base | None, spec: TaskSpec, *, seed: int, who: str = "this family", device: str = "cpu") -> Policy:
    """The base as a policy.

    Args:
        base: what was frozen in the run.
        spec: of the task as the base sees it, without what others add to it.
        seed: of what it draws.
        who: the family that wants it, for messages.

    Raises:
        ConfigError: there is none, it cannot be one, or it was trained for another task.
    """
    if base is None:
        raise ConfigError(f"{who} starts from another policy; name the run that trained one: --base RUN")
    module = plugins.load("policy", base.algo)
    if getattr(module, "BASE", "") == "wanted":
        raise ConfigError(
            f"{who}: the base is a policy of family '{base.algo}', which needs a base itself; take that one, or a "
            "policy that acts alone (bc, flow, diffusion)"
        )
    policy: Policy = module.build_policy(base.config, spec, seed=seed, device=device)
    try:
        policy.load(base.weights)
    except ResumeError as error:
        raise ConfigError(
            f"{who}: the base ('{base.algo}') does not fit task '{spec.name}' with observations "
            f"{ {key: array.shape for key, array in spec.observation.items()} } and {spec.action.size} actions; "
            f"it was trained for another one: {error}"
        ) from error
    return policy


def candidates(base: Policy, observation: Observation, count: int) -> Array:
    """(count, A) float32 actions of the base for one observation; a base that knows but one gives it ``count`` times.

    Asked once per control step: a base that plans ahead goes on in its plan.
    """
    several = getattr(base, "candidates", None)
    if several is not None:
        return np.asarray(several(observation, count), np.float32)
    return np.tile(np.asarray(base.act(observation, explore=False), np.float32), (count, 1))


class OverBase:
    """What every policy over a frozen base passes on to it.

    Args:
        base: asked once per control step.
    """

    def __init__(self, base: Policy) -> None:
        self._base = base

    def reset(self) -> None:
        """Forget the previous episode, the base's plan included."""
        self._base.reset()

    def _proposal(self, observation: Observation) -> Array:
        """(A,) float32 what the base would do now, within the limits; once per control step."""
        return np.clip(np.asarray(self._base.act(observation, explore=False), np.float32), -1.0, 1.0)

    def abandon(self) -> None:
        """Somebody else moved the robot: what the base had planned is void."""
        getattr(self._base, "abandon", _nothing)()

    def timing(self) -> dict[str, float]:
        """How the base has planned; empty where it does not."""
        return dict(getattr(self._base, "timing", dict)())

    def close(self) -> None:
        """End the thread in which the base plans, if there is one."""
        getattr(self._base, "close", _nothing)()


def _nothing() -> None:
    pass
