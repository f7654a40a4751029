"""What corrects a base's action, and noise on that, for actors that learn to leave it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from robolearn.policies.parts.reach import Correction, Within, scattered
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


@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_outputs_lead_to_actions_and_back(seed: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    reach = Correction("base", scale, -1.0)
    output = (torch.rand(5, 3, generator=rng) * 2.0 - 1.0) * 0.999
    start = torch.rand(5, 3, generator=rng) * 2.0 - 1.0
    action = reach.action(output, start)
    assert action.abs().max() < 1.0
    back = reach.output(action, start)
    inside = (start + scale * output).abs() < 1.0 - 1e-5
    torch.testing.assert_close(back[inside], output[inside], rtol=0.0, atol=1e-4)
    torch.testing.assert_close(reach.action(back, start), action, rtol=0.0, atol=1e-4)


def test_gradient_is_autograds() -> None:
    reach, rng = Correction("base", 0.7, -1.0), torch.Generator().manual_seed(0)
    output = (torch.rand(50, 3, generator=rng) * 2.0 - 1.0).requires_grad_()
    start, d_action = torch.rand(50, 3, generator=rng) * 2.0 - 1.0, torch.randn(50, 3, generator=rng)
    reach.action(output, start).backward(d_action)
    found = reach.gradient(d_action, output.detach(), start)
    torch.testing.assert_close(found, output.grad)
    assert 0 < int((found == 0.0).sum()) < found.numel()


def test_without_scale_nothing_is_corrected() -> None:
    reach, start, output = Correction("base", 0.0, -1.0), torch.tensor([[0.2, -0.9, 0.0]]), torch.ones(1, 3)
    assert reach.output(output, start).abs().max() == 0.0
    torch.testing.assert_close(reach.action(output, start), start)


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 2.0]))
def test_an_action_within_reach_is_the_output_and_every_other_the_nearest(seed: int, distance: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    output, start = (torch.rand(20, 3, generator=rng) * 2.0 - 1.0 for _ in range(2))
    action = Within("base", distance).action(output, start)
    assert (action - start).abs().max() <= distance + 1e-6
    near = (output - start).abs() <= distance
    torch.testing.assert_close(action[near], output[near])
    torch.testing.assert_close((action - start)[~near].abs(), torch.full_like(action, distance)[~near])
    assert ((action - start)[~near] * (output - start)[~near] >= 0.0).all()


def test_what_is_out_of_reach_is_only_led_back() -> None:
    reach, start = Within("base", 0.5), torch.zeros(1, 4)
    output, climb = torch.tensor([[0.9, 0.9, -0.9, 0.2]]), torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    torch.testing.assert_close(reach.gradient(climb, output, start), torch.tensor([[0.0, -2.0, 3.0, -4.0]]))
