"""A stack of MLPs in numpy, for control loops: what ``parts/mlp.py`` computes, a few rows at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robolearn.core.spec import Array
from robolearn.policies.parts.mlp import EPSILON, MlpShape


class NumpyStack:
    """E MLPs evaluated together.

    Args:
        shape: of the stack.
        arrays: its parameters by name, (E, ...) each.
        prefix: of their names.
    """

    def __init__(self, shape: MlpShape, arrays: Mapping[str, Array], prefix: str) -> None:
        self._shape = shape
        self._arrays = {name: np.array(arrays[prefix + name], np.float32) for name in shape.parameters}

    def __call__(self, x: Array, members: Array | None = None) -> Array:
        """(E, R, outputs) of inputs (R, inputs); only of the networks ``members`` (M,), where given."""
        arrays = self._arrays
        if members is not None:
            arrays = {name: value[members] for name, value in arrays.items()}
        h: Array = x[None]
        last = len(self._shape.hidden)
        for i in range(last):
            h = h @ arrays[f"w{i}"] + arrays[f"b{i}"]
            if self._shape.layer_norm:
                h = h - h.mean(-1, keepdims=True)
                h *= 1.0 / np.sqrt(np.square(h).mean(-1, keepdims=True) + np.float32(EPSILON))
                h = h * arrays[f"gain{i}"] + arrays[f"offset{i}"]
            h = np.maximum(h, 0.0)
        out: Array = h @ arrays[f"w{last}"] + arrays[f"b{last}"]
        return out
