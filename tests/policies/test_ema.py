"""The average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robolearn.policies.parts.ema import average_of, ema_decay, follow


def test_decay_is_the_published_formula() -> None:
    assert ema_decay(0, 0.9999) == 0.0
    assert ema_decay(15, 0.9999) == pytest.approx(1.0 - 16.0**-0.75)
    assert ema_decay(15, 0.5) == 0.5
    assert ema_decay(10**9, 0.9999) == 0.9999


def test_average_follows() -> None:
    model = nn.Linear(2, 1)
    average = average_of(model)
    expected = model.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight += 1.0
        follow(average, model, step, 0.9)
        decay = min(1.0 - (1 + step) ** -0.75, 0.9)
        expected = decay * expected + (1.0 - decay) * model.weight.detach()
        torch.testing.assert_close(average.weight, expected)
    assert not average.weight.requires_grad
    assert model.weight.requires_grad
