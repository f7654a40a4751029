"""Gymnasium environments."""

from __future__ import annotations

import difflib
import warnings
from typing import Any

import numpy as np

from robolearn.core.errors import ConfigError, MissingDependencyError, RobolearnError
from robolearn.core.spec import Array
from robolearn.sim.environments.backend import Outcome
from robolearn.sim.environments.channels import Channel, Layout, channel, keys_of
from robolearn.sim.environments.config import SuccessRule, World
from robolearn.sim.environments.importing import here, told

_DEFAULT_HZ = 30.0


class GymBackend:
    """An open Gymnasium environment with Box actions; see ``Backend``."""

    def __init__(self, world: World) -> None:
        self._env = _make(world)
        try:
            self.layout = _layout(world.name, self._env.observation_space)
            self.low, self.high = _bounds(world.name, self._env.action_space)
        except BaseException:
            self._env.close()
            raise
        self._shape, self._dtype = self._env.action_space.shape, self._env.action_space.dtype
        self.step_hz = _rate(self._env)
        self.step_limit = _limit(self._env)
        self.renders = self._env.render_mode == "rgb_array"
        self.fallback = SuccessRule("terminated", key="positive")
        self._closed = False

    def reset(self, seed: int) -> Outcome:
        """A new episode."""
        observation, info = self._env.reset(seed=seed)
        return Outcome(observation, 0.0, False, False, dict(info))

    def step(self, action: Array) -> Outcome:
        """One step."""
        observation, reward, terminated, truncated, info = self._env.step(self.shaped(action))
        return Outcome(observation, float(reward), bool(terminated), bool(truncated), dict(info))

    def shaped(self, action: Array) -> Array:
        """The action as the environment's Box has it."""
        return np.asarray(np.clip(action, self.low, self.high), dtype=self._dtype).reshape(self._shape)

    def render(self, width: int, height: int) -> Array:
        """What ``render`` of the environment draws, whatever its size."""
        return np.asarray(self._env.render())

    def close(self) -> None:
        """Close the environment."""
        if not self._closed:
            self._closed = True
            self._env.close()


def _make(world: World) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingDependencyError(f"{world.name} needs Gymnasium: pip install gymnasium") from error
    here()
    config = world.config
    options = config.arguments()
    if config.max_steps:
        options.setdefault("max_episode_steps", config.max_steps * config.action_repeat)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked here
            if "rgb_array" in _render_modes(gymnasium, config.id):
                options.setdefault("render_mode", "rgb_array")
            return gymnasium.make(config.id, disable_env_checker=True, **options)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise ConfigError(f"unknown environment {world.name}: {_advice(gymnasium, config.id, error)}") from error
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{world.name}: no module named '{error.name}'; install what has it") from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise MissingDependencyError(f"{world.name} cannot be made: {' '.join(str(error).split())}") from error
    except RobolearnError:
        raise
    except Exception as error:
        raise ConfigError(f"{world.name} cannot be made with --env-kwargs '{config.kwargs}': {told(error)}") from error


def _render_modes(gymnasium: Any, name: str) -> tuple[str, ...]:
    """What the environment can draw, as far as its class says."""
    module, _, rest = name.rpartition(":")
    if module:
        __import__(module)
    entry = gymnasium.spec(rest).entry_point
    creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)
    return tuple(metadata.get("render_modes") or ()) if isinstance(metadata, dict) else ()


def _advice(gymnasium: Any, name: str, error: Exception) -> str:
    wanted = name.rpartition(":")[2]
    near = difflib.get_close_matches(wanted, list(gymnasium.registry), n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(f'gym:{entry}' for entry in near)}?"
    said = " ".join(str(error).split())
    return f"{said} (environments of a package are found as gym:PACKAGE.MODULE:{wanted})"


def _layout(where: str, space: Any) -> Layout:
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        image = space.dtype == np.uint8 and len(space.shape) >= 2
        return Layout((_box(where, None, "image" if image else "state", space),))
    if not isinstance(space, spaces.Dict):
        raise ConfigError(
            f"{where}: observations of {type(space).__name__} do not work; Box and flat Dict of Box do "
            "(gymnasium.wrappers.FlattenObservation makes a Box of most others)"
        )
    for key, inner in space.spaces.items():
        if not isinstance(inner, spaces.Box):
            raise ConfigError(
                f"{where}: observation '{key}' is {type(inner).__name__}; a flat Dict of Box works "
                "(gymnasium.wrappers.FlattenObservation makes a Box of nested ones)"
            )
    if not space.spaces:
        raise ConfigError(f"{where}: the observation is an empty Dict; expected at least one Box")
    names = keys_of(str(key) for key in space.spaces)
    return Layout(tuple(_box(where, key, names[str(key)], inner) for key, inner in sorted(space.spaces.items())))


def _box(where: str, source: str | None, key: str, box: Any) -> Channel:
    return channel(where, source, key, tuple(box.shape), box.dtype, box.low, box.high)


def _bounds(where: str, space: Any) -> tuple[Array, Array]:
    from gymnasium import spaces

    if not isinstance(space, spaces.Box):
        raise ConfigError(f"{where}: actions of {type(space).__name__} do not work; continuous ones do (Box of floats)")
    if np.dtype(space.dtype).kind != "f":
        raise ConfigError(f"{where}: actions are Box of {space.dtype}; expected floats")
    low, high = (np.asarray(bound, dtype=np.float64).reshape(-1) for bound in (space.low, space.high))
    if low.size == 0:
        raise ConfigError(f"{where}: the action is empty (shape {space.shape}); expected at least one element")
    endless = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)) | (np.maximum(-low, high) > 1e30))
    if endless.size:
        raise ConfigError(
            f"{where}: action elements {endless.tolist()} have no bounds, so their scale is unknown; wrap the "
            "environment so that its action_space is a Box with finite bounds"
        )
    return low, high


def _rate(env: Any) -> float:
    """Environment steps a second: ``dt`` of the environment, or the rate of its videos."""
    step = getattr(env.unwrapped, "dt", None)
    if isinstance(step, int | float) and 1e-6 < step < 1e3:
        return 1.0 / float(step)
    fps = (env.metadata or {}).get("render_fps")
    return float(fps) if isinstance(fps, int | float) and fps > 0 else _DEFAULT_HZ


def _limit(env: Any) -> int:
    from gymnasium.wrappers import TimeLimit

    layer = env
    while layer is not env.unwrapped:
        if isinstance(layer, TimeLimit):
            return int(layer._max_episode_steps)
        layer = layer.env
    return 0
