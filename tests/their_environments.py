"""Environments as somebody else might write them, good and bad, registered with Gymnasium when this is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dm_env
import gymnasium as gym
import numpy as np
from dm_env import specs
from gymnasium import spaces

STEPS = 12


class Line(gym.Env[Any, Any]):
    """A point on a line that has to come near zero; the observation is (position, goal side), two action elements."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space: spaces.Space[Any] = spaces.Box(
        np.array([[-0.5, 0.0]], np.float32), np.array([[0.5, 4.0]], np.float32)
    )

    def __init__(self, size: float = 2.0, report: str = "is_success", render_mode: str | None = None) -> None:
        self.size, self.report, self.render_mode, self.x = size, report, render_mode, 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-self.size, self.size))
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.shape == (1, 2)
        assert action.dtype == np.float32
        self.x += float(action[0, 0])
        near = abs(self.x) < 0.3
        info = {self.report: near} if self.report else {}
        return self._see(), -abs(self.x), abs(self.x) > 10, False, info

    def render(self) -> Any:
        return np.full((40, 90, 3), 200, np.uint8)

    def _see(self) -> Any:
        return np.array([self.x, np.sign(self.x)])


class Keys(Line):
    """Odd keys, a scalar, a channel-first image, whole numbers."""

    observation_space = spaces.Dict(
        {
            "arm/left pos": spaces.Box(-5.0, 5.0, (2, 1), np.float64),
            "arm": spaces.Box(-np.inf, np.inf, (), np.float64),
            "count": spaces.Box(0, 9, (1,), np.int64),
            "eye": spaces.Box(0, 255, (3, 8, 6), np.uint8),
        }
    )

    def _see(self) -> Any:
        eye = np.zeros((3, 8, 6), np.uint8)
        eye[0] = 250
        pose = np.full((2, 1), np.clip(self.x, -5, 5))
        return {"arm/left pos": pose, "arm": np.float64(self.x), "count": np.array([3]), "eye": eye}


class Seen(Line):
    """Nothing but pictures."""

    observation_space = spaces.Box(0, 255, (8, 6, 3), np.uint8)

    def _see(self) -> Any:
        return np.full((8, 6, 3), 100, np.uint8)


class Bad(Line):
    """Does as it should until its third step, or until its second reset; for good once the file ``mended`` exists."""

    def __init__(self, way: str = "", mended: str = "", **more: Any) -> None:
        super().__init__(**more)
        self.way, self.steps, self.resets = way, 0, 0
        if mended and Path(mended).exists():
            self.way = ""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.resets, self.steps = self.resets + 1, 0
        if self.resets > 1 and self.way == "reset raises":
            raise RuntimeError("the simulator\nis gone")
        if self.resets > 1 and self.way == "reset returns nothing":
            return None  # type: ignore[return-value]
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation, reward, *rest = super().step(action)
        if self.steps < 3:
            return observation, reward, *rest  # type: ignore[return-value]
        if self.way == "step raises":
            raise ZeroDivisionError("division by zero")
        if self.way == "another shape":
            observation = np.zeros(3)
        if self.way == "not finite":
            observation = np.array([np.nan, 0.0])
        if self.way == "reward is nan":
            reward = np.nan
        if self.way == "words":
            observation = np.array(["a", "b"])
        if self.way == "four values":
            return observation, reward, False, {}  # type: ignore[return-value]
        return observation, reward, *rest  # type: ignore[return-value]


class BadKeys(Keys):
    """Forgets a key from its second reset on."""

    resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.resets += 1
        observation, info = super().reset(seed=seed)
        if self.resets > 1:
            del observation["arm"]
        return observation, info


class Late(Line):
    """Says only when it is over whether that was a success."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = super().step(action)
        over = abs(self.x) < 0.3
        return observation, reward, over, False, info if over else {}


class Broken(Line):
    """Shows from the start something else than its space says."""

    observation_space = spaces.Box(-1, 1, (5,), np.float32)


def with_spaces(observation: spaces.Space[Any] | None = None, action: spaces.Space[Any] | None = None) -> gym.Env:
    env = Line()
    env.observation_space = observation or Line.observation_space
    env.action_space = action or Line.action_space
    return env


_BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
SPACES: dict[str, dict[str, spaces.Space[Any]]] = {
    "DiscreteActions": {"action": spaces.Discrete(3)},
    "EndlessActions": {"action": spaces.Box(-np.inf, np.inf, (2,), np.float32)},
    "WholeActions": {"action": spaces.Box(0, 5, (2,), np.int64)},
    "NoActions": {"action": spaces.Box(-1.0, 1.0, (0,), np.float32)},
    "Nested": {"observation": spaces.Dict({"robot": spaces.Dict({"q": _BOX})})},
    "Tupled": {"observation": spaces.Tuple((_BOX, _BOX))},
    "DiscreteKey": {"observation": spaces.Dict({"q": _BOX, "mode": spaces.Discrete(2)})},
    "Grey": {"observation": spaces.Box(0, 255, (8, 8), np.uint8)},
    "GreyLast": {"observation": spaces.Box(0, 255, (8, 8, 1), np.uint8)},
    "FourChannels": {"observation": spaces.Box(0, 255, (8, 8, 4), np.uint8)},
    "FloatImage": {"observation": spaces.Box(0.0, 1.0, (64, 64, 3), np.float32)},
    "Empty": {"observation": spaces.Box(-1.0, 1.0, (0,), np.float32)},
}

for _class in (Line, Keys, Seen, Bad, BadKeys, Late, Broken):
    gym.register(f"Their{_class.__name__}-v0", entry_point=_class, max_episode_steps=STEPS)
gym.register("TheirEndless-v0", entry_point=Line)
for _name, _spaces in SPACES.items():
    gym.register(
        f"Their{_name}-v0",
        entry_point=lambda render_mode=None, own=_spaces: with_spaces(**own),
        max_episode_steps=STEPS,
    )


class DmLine(dm_env.Environment):
    """The same for dm_env; ends with discount 0 beyond 3, and after five steps with discount 1."""

    def __init__(self, size: float = 1.0) -> None:
        self.size, self.x, self.steps = size, 0.0, 0
        self.random_state = np.random.RandomState(0)

    def reset(self) -> dm_env.TimeStep:
        self.x, self.steps = float(self.random_state.uniform(-self.size, self.size)), 0
        return dm_env.restart({"x": np.array(self.x)})

    def step(self, action: Any) -> dm_env.TimeStep:
        self.x, self.steps = self.x + float(action[0]), self.steps + 1
        if abs(self.x) > 3:
            return dm_env.termination(1.0, {"x": np.array(self.x)})
        if self.steps >= 5:
            return dm_env.truncation(0.5, {"x": np.array(self.x)})
        return dm_env.transition(0.25, {"x": np.array(self.x)})

    def observation_spec(self) -> dict[str, specs.Array]:
        return {"x": specs.Array((), np.float64)}

    def action_spec(self) -> specs.BoundedArray:
        return specs.BoundedArray((1,), np.float64, -2.0, 2.0)


def line_expert(observation: Any) -> Any:
    """Moves to zero."""
    return np.array([[np.clip(-observation[0], -0.5, 0.5), 2.0]])


class Stateful:
    """An expert that counts its resets and calls."""

    def __init__(self) -> None:
        self.resets = self.calls = 0

    def reset(self) -> None:
        self.resets += 1
        self.calls = 0

    def __call__(self, observation: Any) -> Any:
        self.calls += 1
        return line_expert(observation)


stateful = Stateful()
not_callable = 3


def raising_expert(observation: Any) -> Any:
    """Knows nothing."""
    raise ValueError("no idea")


def misshapen_expert(observation: Any) -> Any:
    """Answers a vector where a (1, 2) array is wanted."""
    return np.zeros(2)


def endless_expert(observation: Any) -> Any:
    """Answers no number."""
    return np.full((1, 2), np.nan)
