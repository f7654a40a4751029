"""Symmetry: ways to look at a task under which it is the same task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import SpecError
from robolearn.core.spec import Array


@dataclass(frozen=True)
class SignedPermutation:
    """``y[..., i] = sign[i] * x[..., order[i]]``: what a quarter turn or a mirror does to components of vectors.

    Attributes:
        order: each of 0 to n - 1 once.
        sign: 1 or -1 for each.
    """

    order: tuple[int, ...]
    sign: tuple[int, ...]

    def __post_init__(self) -> None:
        n = len(self.order)
        if sorted(self.order) != list(range(n)) or len(self.sign) != n or not set(self.sign) <= {1, -1}:
            raise SpecError(
                f"expected an order of 0 to {n - 1} and {n} signs of 1 or -1, got {self.order}, {self.sign}"
            )

    @classmethod
    def identity(cls, n: int) -> SignedPermutation:
        """Changes nothing."""
        return cls(tuple(range(n)), (1,) * n)

    @classmethod
    def of_matrix(cls, matrix: Array) -> SignedPermutation:
        """From an (n, n) matrix with a single 1 or -1 in each row and column."""
        order = np.abs(matrix).argmax(1)
        return cls(tuple(order.tolist()), tuple(int(row[i]) for row, i in zip(matrix, order, strict=True)))

    @classmethod
    def joined(cls, *parts: SignedPermutation) -> SignedPermutation:
        """Of vectors laid end to end, each transformed by itself."""
        order: list[int] = []
        for part in parts:
            first = len(order)
            order += [first + i for i in part.order]
        return cls(tuple(order), tuple(sign for part in parts for sign in part.sign))

    def __call__(self, x: Array) -> Array:
        """Transformed copy of ``x`` (..., n)."""
        return np.asarray(x[..., list(self.order)] * np.array(self.sign, x.dtype))


@dataclass(frozen=True)
class Symmetry:
    """If an action leads from one observation to another, the transformed action leads from the transformed
    observation to the transformed other, with the same reward.

    Attributes:
        observation: key -> transformation; keys that are not named do not change.
        action: transformation.
    """

    observation: dict[str, SignedPermutation]
    action: SignedPermutation
