"""dm_control tasks, and any other environment of the dm_env kind."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from robolearn.core.errors import ConfigError, MissingDependencyError, RobolearnError
from robolearn.core.spec import Array
from robolearn.sim.environments.backend import Outcome
from robolearn.sim.environments.channels import Layout, channel, keys_of
from robolearn.sim.environments.config import SuccessRule, World
from robolearn.sim.environments.importing import load_callable, told

GOOD_REWARD = 0.9
"""Rewards of dm_control lie in [0, 1]; above this a step counts as success where nothing else is asked for."""
_DEFAULT_HZ = 30.0


class DmBackend:
    """An open dm_env environment with bounded actions; see ``Backend``."""

    def __init__(self, world: World) -> None:
        os.environ.setdefault("MUJOCO_GL", "egl")  # as elsewhere; dm_control reads it when it is imported
        self._env = _make(world)
        if not world.config.shadows:
            _without_shadows(self._env)
        try:
            self.layout = _layout(world.name, self._env.observation_spec())
            spec = self._env.action_spec()
            self.low, self.high = _bounds(world.name, spec)
        except BaseException:
            self.close()
            raise
        self._shape, self._dtype = tuple(spec.shape), spec.dtype
        self.step_hz = _rate(self._env)
        self.step_limit = _limit(self._env, self.step_hz)
        self.renders = hasattr(getattr(self._env, "physics", None), "render")
        self.fallback = SuccessRule("reward", threshold=GOOD_REWARD)

    def reset(self, seed: int) -> Outcome:
        """A new episode; the generator of the environment is seeded where it has one."""
        random = _generator(self._env)
        if random is not None:
            random.seed(seed)
        return _outcome(self._env.reset())

    def step(self, action: Array) -> Outcome:
        """One step; the last one of an episode is terminal when its discount is 0."""
        return _outcome(self._env.step(self.shaped(action)))

    def shaped(self, action: Array) -> Array:
        """The action as the environment's spec has it."""
        return np.asarray(np.clip(action, self.low, self.high), dtype=self._dtype).reshape(self._shape)

    def render(self, width: int, height: int) -> Array:
        """A picture from the first camera, or from the free one; without shadows, which cost several times the rest."""
        physics = self._env.physics
        camera = 0 if physics.model.ncam else -1
        plain = {"shadow": False, "reflection": False}
        return np.asarray(physics.render(height, width, camera_id=camera, render_flag_overrides=plain))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _outcome(step: Any) -> Outcome:
    last = bool(step.last())
    reward = 0.0 if step.reward is None else float(step.reward)
    discount = 1.0 if step.discount is None else float(step.discount)
    return Outcome(step.observation, reward, last and discount == 0.0, last and discount != 0.0, {})


def _make(world: World) -> Any:
    name, options = world.config.id, world.config.arguments()
    try:
        if ":" in name:
            return load_callable(world.name, name)(**options)
        return _of_dm_control(world, name, options)
    except (RobolearnError, MemoryError):
        raise
    except ImportError as error:
        raise MissingDependencyError(f"{world.name} cannot be made: {told(error)}") from error
    except Exception as error:
        raise ConfigError(
            f"{world.name} cannot be made with --env-kwargs '{world.config.kwargs}': {told(error)}"
        ) from error


def _of_dm_control(world: World, name: str, options: dict[str, Any]) -> Any:
    domain, _, task = name.partition("/")
    if domain == "manipulation":
        from dm_control import manipulation

        if task not in manipulation.ALL:
            raise _unknown(world, [f"manipulation/{entry}" for entry in manipulation.ALL])
        if options:
            raise ConfigError(f"{world.name} takes no keyword arguments; leave out --env-kwargs {world.config.kwargs}")
        return manipulation.load(task, seed=0)
    from dm_control import suite

    have = [f"{one}/{other}" for one, other in suite.ALL_TASKS]
    if name not in have:
        raise _unknown(world, have)
    own = {key: options.pop(key) for key in ("environment_kwargs", "visualize_reward") if key in options}
    task_kwargs = {"random": 0, **options.pop("task_kwargs", {}), **options}
    return suite.load(domain, task, task_kwargs=task_kwargs, **own)


def _unknown(world: World, have: list[str]) -> ConfigError:
    near = difflib.get_close_matches(world.config.id, have, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(f'dm:{entry}' for entry in near)}?" if near else f"have: {', '.join(have)}"
    return ConfigError(f"unknown environment {world.name}: {hint}")


def _layout(where: str, specs: Any) -> Layout:
    if not isinstance(specs, Mapping):
        return Layout((channel(where, None, "state", tuple(specs.shape), specs.dtype, *_limits(specs)),))
    nested = [key for key, spec in specs.items() if not hasattr(spec, "shape")]
    if nested or not specs:
        raise ConfigError(
            f"{where}: observation {nested} is nested or empty; one array or a flat mapping of them works"
        )
    names = keys_of(map(str, specs))
    return Layout(
        tuple(
            channel(where, key, names[key], tuple(spec.shape), spec.dtype, *_limits(spec))
            for key, spec in sorted(specs.items())
        )
    )


def _limits(spec: Any) -> tuple[Any, Any]:
    return getattr(spec, "minimum", None), getattr(spec, "maximum", None)


def _bounds(where: str, spec: Any) -> tuple[Array, Array]:
    if not hasattr(spec, "shape") or not hasattr(spec, "minimum") or np.dtype(spec.dtype).kind != "f":
        raise ConfigError(f"{where}: actions of {type(spec).__name__} do not work; a BoundedArray of floats does")
    low, high = (
        np.broadcast_to(np.asarray(bound, dtype=np.float64), spec.shape).reshape(-1).copy()
        for bound in (spec.minimum, spec.maximum)
    )
    if low.size == 0:
        raise ConfigError(f"{where}: the action is empty; expected at least one element")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ConfigError(f"{where}: the action has no finite bounds, so its scale is unknown")
    return low, high


def _without_shadows(env: Any) -> None:
    """Before anything is drawn: in the model, and in what composer compiles it from for every episode."""
    physics, root = getattr(env, "physics", None), getattr(getattr(env, "task", None), "root_entity", None)
    if physics is not None:
        physics.model.vis.quality.shadowsize = 0
    if root is not None:
        root.mjcf_model.visual.quality.shadowsize = 0


def _generator(env: Any) -> Any:
    """The RandomState that draws episodes: of a composer environment, or of a suite task."""
    for owner, name in ((env, "random_state"), (getattr(env, "task", None), "random")):
        found = getattr(owner, name, None)
        if isinstance(found, np.random.RandomState):
            return found
    return None


def _rate(env: Any) -> float:
    step = env.control_timestep() if hasattr(env, "control_timestep") else 0.0
    return 1.0 / float(step) if step else _DEFAULT_HZ


def _limit(env: Any, step_hz: float) -> int:
    """Environment steps after which the environment ends an episode itself; 0 where that is not known."""
    steps = float(getattr(env, "_step_limit", math.inf))
    seconds = float(getattr(env, "_time_limit", math.inf))
    limit = min(steps, seconds * step_hz)
    return math.ceil(limit - 1e-6) if math.isfinite(limit) else 0
