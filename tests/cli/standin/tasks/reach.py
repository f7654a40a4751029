"""Reach a point.

A task without a robot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Where.

    Attributes:
        tolerance_mm: how near is near enough.
        corner: where to.
        noisy: shake.
    """

    tolerance_mm: float = 5.0
    steps: int = 100
    corner: tuple[float, float] = (0.1, 0.2)
    noisy: bool = False


TIERS = {"easy": Config(tolerance_mm=20.0), "default": Config()}
