"""An exponential moving average of a network's weights, which is what acts."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
_POWER = 0.75


def ema_decay(step: int, cap: float) -> float:
    """Decay after ``step`` updates: 1 - (1 + step)^(-3/4), at most ``cap`` (Chi et al. 2023, their ``EMAModel``)."""
    return min(1.0 - math.pow(1.0 + step, -_POWER), cap)


def average_of(model: Model) -> Model:
    """A copy of a model, without gradients, in which its average is kept."""
    return copy.deepcopy(model).requires_grad_(False)


def follow(average: nn.Module, model: nn.Module, step: int, cap: float) -> None:
    """average <- d * average + (1 - d) * model, with d = ``ema_decay(step, cap)``."""
    share = 1.0 - ema_decay(step, cap)
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
