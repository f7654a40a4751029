"""Arrays of an environment's observation: what they are called here and how a policy sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.spec import Array, ArraySpec, Observation

FLAGS = ("env/reward", "env/terminated", "env/truncated", "env/success")
"""Robot observation keys of what else a step gave, (1,) each; success is -1 where the environment says nothing."""
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
_LARGEST_FLAT = 4096

ImageLayout = Literal["", "hwc", "chw", "1hwc", "1chw"]


@dataclass(frozen=True)
class Channel:
    """One array of an observation.

    Attributes:
        key: its name in robot and policy observations.
        source: its key in the environment's observation; None when the observation is this one array.
        shape, dtype: as the environment shows it.
        image: layout of an image, else empty.
        low, high: bounds of the flattened vector, a number each or one for each element.
    """

    key: str
    source: str | None
    shape: tuple[int, ...]
    dtype: str
    image: ImageLayout = ""
    low: float | tuple[float, ...] = -math.inf
    high: float | tuple[float, ...] = math.inf

    @property
    def raw(self) -> ArraySpec:
        """How the robot shows it: as the environment does."""
        return ArraySpec(self.key, self.shape, self.dtype, "as the environment shows it")

    @property
    def spec(self) -> ArraySpec:
        """How a policy sees it: (H, W, 3) uint8, or a float32 vector in the environment's units."""
        if not self.image:
            bounds = {"low": self.low, "high": self.high}
            return ArraySpec(self.key, (math.prod(self.shape),), "float32", "environment's units", **bounds)
        height, width = self.shape[-2:] if self.image.endswith("chw") else self.shape[-3:-1]
        return ArraySpec(self.key, (height, width, 3), "uint8", "rgb")

    def for_policy(self, value: Array) -> Array:
        """The value as a policy sees it."""
        if not self.image:
            return np.asarray(value, dtype=np.float32).reshape(-1)
        picture = value[0] if self.image.startswith("1") else value
        return np.ascontiguousarray(picture.transpose(1, 2, 0) if self.image.endswith("chw") else picture)

    def check(self, value: Any) -> Array:
        """A copy of the value as the robot shows it.

        Raises:
            SpecError: another shape, no numbers, or not finite.
        """
        array = np.array(value)
        if array.shape != self.shape:
            raise SpecError(f"'{self.source or self.key}' has shape {array.shape} instead of {self.shape}")
        if array.dtype != np.dtype(self.dtype):
            if array.dtype.kind not in "fiub" or (self.image and array.dtype != np.uint8):
                raise SpecError(f"'{self.source or self.key}' has dtype {array.dtype} instead of {self.dtype}")
            array = array.astype(self.dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SpecError(f"'{self.source or self.key}' is not finite: {_short(array)}")
        return array


@dataclass(frozen=True)
class Layout:
    """All channels of an observation."""

    channels: tuple[Channel, ...]

    def split(self, observation: Any) -> dict[str, Array]:
        """Robot observation of an environment's observation.

        Raises:
            SpecError: keys are missing, or an array is not what it should be.
        """
        if self.channels[0].source is None:
            return {self.channels[0].key: self.channels[0].check(observation)}
        if not isinstance(observation, Mapping):
            raise SpecError(f"the observation is {type(observation).__name__}, expected a dict")
        missing = [channel.source for channel in self.channels if channel.source not in observation]
        if missing:
            raise SpecError(f"the observation lacks {missing}")
        return {channel.key: channel.check(observation[channel.source]) for channel in self.channels}

    def join(self, raw: Observation) -> Any:
        """The environment's own observation; inverse of ``split``."""
        if self.channels[0].source is None:
            return raw[self.channels[0].key]
        return {channel.source: raw[channel.key] for channel in self.channels}


def channel(
    where: str, source: str | None, key: str, shape: tuple[int, ...], dtype: Any, low: Any = None, high: Any = None
) -> Channel:
    """The channel of an array.

    Args:
        where: for messages, such as ``gym:Pendulum-v1``.
        low, high: bounds of the array, broadcast to its shape; None for none.

    Raises:
        ConfigError: policies could make nothing of it.
    """
    kind, name = np.dtype(dtype), f"{where}: observation '{source or key}'"
    if kind.kind not in "fiub":
        raise ConfigError(f"{name} has dtype {kind}; numbers work (Box of float, integer or uint8 images)")
    if math.prod(shape) == 0:
        raise ConfigError(f"{name} has shape {shape}; expected at least one element")
    if kind == np.uint8 and len(shape) >= 2:
        return Channel(key, source, shape, "uint8", _image(name, shape))
    if len(shape) >= 2 and math.prod(shape) > _LARGEST_FLAT:
        raise ConfigError(f"{name} is {kind} of shape {shape}; images work as uint8 of shape (height, width, 3)")
    return Channel(key, source, shape, kind.name, "", _bound(low, shape, -math.inf), _bound(high, shape, math.inf))


def _image(name: str, shape: tuple[int, ...]) -> ImageLayout:
    inner = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(inner) == 3 and inner[2] == 3:
        return "hwc" if inner is shape else "1hwc"
    if len(inner) == 3 and inner[0] == 3:
        return "chw" if inner is shape else "1chw"
    what = "one grey channel" if len(inner) == 2 or 1 in (inner[0], inner[-1]) else "this shape"
    raise ConfigError(
        f"{name} is uint8 of shape {shape}; images of {what} do not work, RGB ones do: (height, width, 3) or "
        "(3, height, width), one frame each"
    )


def _bound(value: Any, shape: tuple[int, ...], missing: float) -> float | tuple[float, ...]:
    if value is None:
        return missing
    flat = np.broadcast_to(np.asarray(value, dtype=np.float64), shape).reshape(-1)
    return tuple(float(v) if abs(v) < 1e30 else missing for v in flat)


def keys_of(sources: Iterable[str]) -> dict[str, str]:
    """Original key -> a name that a buffer can store, all different."""
    names: dict[str, str] = {}
    for source in sources:
        name = _ODD.sub("_", source).lstrip(".-") or "_"
        stem, n = name, 2
        while name in names.values():
            name, n = f"{stem}_{n}", n + 1
        names[source] = name
    return names


def _short(array: Array) -> str:
    text = " ".join(str(array).split())
    return text if len(text) <= 60 else text[:57] + "..."
