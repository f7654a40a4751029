"""Which environment, and what counts as success in it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from robolearn.core.errors import ConfigError

USUAL_KEYS = ("success", "is_success", "succeed")
"""Keys of ``info`` under which environments commonly report success."""
_RULE = re.compile(r"^\s*(reward|return)\s*>\s*(\S+)\s*$")


@dataclass(frozen=True)
class EnvironmentConfig:
    """An environment, and how it is used.

    Attributes:
        id: which one: ``Pendulum-v1`` or ``package.module:EnvId-v0`` of Gymnasium; ``domain/task``,
            ``manipulation/name`` or ``package.module:function`` (which returns a dm_env environment) for dm_control.
        kwargs: keyword arguments for its constructor, a JSON object.
        success_key: what counts as success: a key of ``info``, ``terminated``, ``reward>X`` (of one step) or
            ``return>X`` (of the whole episode, judged at its end); empty looks for the usual keys of ``info``, and
            falls back on ``terminated`` with a positive reward (Gymnasium) or ``reward>0.9`` (dm_control).
        success_at: whether success at any step counts, or only at the last one.
        expert: ``module:callable`` that shows how it is done: the environment's own observation in, action out in
            the environment's units; a ``reset()`` of it, if it has one, is called before each episode.
        action_repeat: environment steps for one action; their rewards are added.
        max_steps: step limit of an episode; 0 takes the environment's own (1000 where it has none).
        steps: robot steps a learner is given.
        shadows: of dm_control: draw images with shadows, as published. In software they cost over ten times the rest.

    Raises:
        ConfigError: a value is out of range or cannot be understood.
    """

    id: str = ""
    kwargs: str = "{}"
    success_key: str = ""
    success_at: Literal["any", "end"] = "any"
    expert: str = ""
    action_repeat: int = 1
    max_steps: int = 0
    steps: int = 20_000
    shadows: bool = True

    def __post_init__(self) -> None:
        self.arguments()
        for name, least in (("action_repeat", 1), ("max_steps", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"env.{name}: expected at least {least}, got {getattr(self, name)}")
        if self.success_at not in ("any", "end"):
            raise ConfigError(f"env.success_at: expected 'any' or 'end', got '{self.success_at}'")
        if self.expert and not all(self.expert.partition(":")):
            raise ConfigError(f"env.expert: expected MODULE:CALLABLE, got '{self.expert}'")
        parse_success(self.success_key)

    def arguments(self) -> dict[str, Any]:
        """``kwargs`` as a mapping."""
        try:
            found = json.loads(self.kwargs or "{}")
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"env.kwargs: expected a JSON object such as '{{\"g\": 9.81}}', got '{self.kwargs}' ({error.msg})"
            ) from None
        if not isinstance(found, dict):
            raise ConfigError(f"env.kwargs: expected a JSON object such as '{{\"g\": 9.81}}', got '{self.kwargs}'")
        return found


@dataclass(frozen=True)
class World:
    """What a task of this kind gives to the robot driver ``environment`` in place of a scene."""

    source: Literal["gym", "dm"]
    config: EnvironmentConfig

    @property
    def name(self) -> str:
        """``gym:ID`` or ``dm:ID``, as on the command line."""
        return f"{self.source}:{self.config.id}"


@dataclass(frozen=True)
class SuccessRule:
    """What counts as success.

    Attributes:
        kind: ``auto`` (the usual keys of info, then the fallback of the source), ``info``, ``terminated``, ``reward``
            or ``return``.
        key: of ``info``.
        threshold: that reward or return has to exceed.
    """

    kind: Literal["auto", "info", "terminated", "reward", "return"]
    key: str = ""
    threshold: float = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of ``info`` worth looking at, the first that is there decides."""
        return {"auto": USUAL_KEYS, "info": (self.key,)}.get(self.kind, ())


def parse_success(text: str) -> SuccessRule:
    """The rule that ``success_key`` spells.

    Raises:
        ConfigError: the threshold is no finite number.
    """
    if not text:
        return SuccessRule("auto")
    if text == "terminated":
        return SuccessRule("terminated")
    match = _RULE.match(text)
    if match is None:
        if ">" in text or "<" in text:
            raise ConfigError(
                f"env.success_key: expected a key of info, 'terminated', 'reward>X' or 'return>X', got '{text}'"
            )
        return SuccessRule("info", key=text)
    try:
        threshold = float(match[2])
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise ConfigError(f"env.success_key: expected a number after '>', got '{text}'")
    return SuccessRule("reward" if match[1] == "reward" else "return", threshold=threshold)
