"""ArraySpec: what an array means, and whether a given one is acceptable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.core.errors import SpecError

Array = NDArray[Any]
Observation = Mapping[str, Array]


@dataclass(frozen=True)
class ArraySpec:
    """Name, shape, dtype, unit and inclusive bounds of an array.

    Args:
        name: key of the array, used in messages.
        shape: exact shape, without batch dimension.
        dtype: numpy dtype name, for example ``"float32"`` or ``"uint8"``.
        unit: human-readable unit or layout, for example ``"m, rad"`` or ``"rgb"``.
        low, high: inclusive bounds, a scalar or one value per element of the last dimension.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    unit: str = ""
    low: float | tuple[float, ...] = -math.inf
    high: float | tuple[float, ...] = math.inf

    def __post_init__(self) -> None:
        np.dtype(self.dtype)
        if any(n < 0 for n in self.shape):
            raise SpecError(f"{self.name}: shape {self.shape} has a negative dimension")
        for bound in (self.low, self.high):
            if isinstance(bound, tuple) and (not self.shape or len(bound) != self.shape[-1]):
                raise SpecError(
                    f"{self.name}: {len(bound)} bounds for shape {self.shape}; "
                    "give one number or one per element of the last dimension"
                )
        if np.any(np.asarray(self.low) > np.asarray(self.high)):
            raise SpecError(f"{self.name}: low {self.low} is above high {self.high}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def validate(self, value: Any) -> Array:
        """Return ``value`` as an array of this spec, or raise SpecError saying what was expected and got."""
        array = np.asarray(value)
        if array.shape != self.shape:
            raise SpecError(f"{self.name}: expected shape {self.shape}, got {array.shape}")
        if array.dtype != np.dtype(self.dtype):
            if not np.can_cast(array.dtype, self.dtype, casting="same_kind"):
                raise SpecError(f"{self.name}: expected dtype {self.dtype}, got {array.dtype}")
            array = array.astype(self.dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SpecError(f"{self.name}: expected finite numbers, got {array}")
        low, high = np.asarray(self.low), np.asarray(self.high)
        if array.dtype.kind == "f":  # float32(0.008) is above 0.008
            low, high = low.astype(array.dtype), high.astype(array.dtype)
        if (array < low).any() or (array > high).any():
            raise SpecError(f"{self.name}: expected values within [{self.low}, {self.high}] {self.unit}, got {array}")
        return array

    def clip(self, value: Any) -> Array:
        """``value`` clipped to the bounds, in this dtype; shape and finiteness are still required."""
        array = np.asarray(value, dtype=self.dtype)
        return self.validate(np.clip(array, self.low, self.high).astype(self.dtype))

    def zeros(self) -> Array:
        """An array of zeros of this shape and dtype."""
        return np.zeros(self.shape, dtype=self.dtype)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable description; infinite bounds become None."""

        def bound(value: float | tuple[float, ...]) -> Any:
            if isinstance(value, tuple):
                return [None if math.isinf(v) else v for v in value]
            return None if math.isinf(value) else value

        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "unit": self.unit,
            "low": bound(self.low),
            "high": bound(self.high),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArraySpec:
        """Inverse of ``to_json``."""

        def bound(value: Any, missing: float) -> float | tuple[float, ...]:
            if isinstance(value, list):
                return tuple(missing if v is None else float(v) for v in value)
            return missing if value is None else float(value)

        return cls(
            name=data["name"],
            shape=tuple(data["shape"]),
            dtype=data["dtype"],
            unit=data["unit"],
            low=bound(data["low"], -math.inf),
            high=bound(data["high"], math.inf),
        )


def validate_all(specs: Mapping[str, ArraySpec], values: Observation) -> dict[str, Array]:
    """Validate a dict of arrays against specs: missing and extra keys are named."""
    missing, extra = sorted(set(specs) - set(values)), sorted(set(values) - set(specs))
    if missing or extra:
        raise SpecError(f"keys differ: missing {missing}, unexpected {extra}, expected {sorted(specs)}")
    return {key: spec.validate(values[key]) for key, spec in specs.items()}
