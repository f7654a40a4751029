"""Guess: tries something. Never learns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """How.

    Attributes:
        hidden: width.
    """

    hidden: int = 32
    lr: float = 1e-3
    utd: int = 2
