"""Noise on what a base proposes, for actors that learn to leave it."""

from __future__ import annotations

import torch

from robolearn.policies.parts.reach import scattered
from robolearn.policies.parts.tanh_normal import ACTION_LIMIT


def test_each_row_has_its_own_spread_and_all_stay_within_the_limits() -> None:
    rng = torch.Generator().manual_seed(0)
    proposals = torch.zeros(4000, 3, 5)
    noisy = scattered(proposals, 0.2, rng)
    per_row = noisy.flatten(1).std(1)
    assert per_row.min() < 0.02
    assert 0.15 < per_row.max() < 0.4
    torch.testing.assert_close(noisy.square().mean(), torch.tensor(0.2**2 / 3), rtol=0.1, atol=0.0)  # E[U^2] = 1/3
    assert noisy.mean().abs() < 0.005
    at_the_limit = scattered(torch.ones(100, 1, 4), 1.0, rng)
    assert at_the_limit.max() <= ACTION_LIMIT
    assert at_the_limit.min() < 0.5


def test_no_spread_or_no_proposals_draw_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    proposals, none = torch.full((3, 1, 2), 0.4), torch.zeros(3, 0, 2)
    assert scattered(proposals, 0.0, rng) is proposals
    assert scattered(none, 1.0, rng) is none
    assert torch.equal(rng.get_state(), before)
