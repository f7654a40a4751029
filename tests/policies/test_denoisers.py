"""The networks that clean chunks of actions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from robolearn.core.errors import ConfigError
from robolearn.policies.flow import Config
from robolearn.policies.parts.chunk_model import make_denoiser
from robolearn.policies.parts.denoiser import Denoiser, TimeEmbedding
from robolearn.policies.parts.transformer import Transformer
from robolearn.policies.parts.unet import Unet

from .chunks import CHUNK, SMALL

ACTIONS, FEATURES, FRAMES = 3, 5, SMALL["history"]
nets = pytest.mark.parametrize("net", ["mlp", "unet", "transformer"])


def small(net: str, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return make_denoiser(Config(**SMALL, net=net), ACTIONS, FEATURES)


def inputs(rows: int, chunk: int = CHUNK) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, chunk, ACTIONS, generator=rng)
    return x, torch.rand(rows, generator=rng), torch.randn(rows, FRAMES, FEATURES, generator=rng)


@nets
def test_shape_and_that_every_input_counts(net: str) -> None:
    made = small(net)
    x, time, condition = inputs(6)
    out = made(x, time, condition)
    assert out.shape == x.shape
    for changed in (made(x + 1.0, time, condition), made(x, 1.0 - time, condition), made(x, time, condition + 1.0)):
        assert (out - changed).abs().amax(dim=(1, 2)).min() > 1e-4
    oldest = condition.clone()
    oldest[:, 0] += 1.0
    assert (out - made(x, time, oldest)).abs().max() > 1e-4


@nets
def test_rows_do_not_see_each_other(net: str) -> None:
    made = small(net)
    x, time, condition = inputs(5)
    for i in range(5):
        row = made(x[i : i + 1], time[i : i + 1], condition[i : i + 1])
        torch.testing.assert_close(row, made(x, time, condition)[i : i + 1], rtol=0, atol=1e-5)


@nets
def test_acting_gives_what_the_module_gives(net: str) -> None:
    """One row of time and observation for all, and batches of other sizes one after the other; in exact arithmetic."""
    made = small(net).requires_grad_(False)
    exact, act = copy.deepcopy(made).double(), made.acting()
    for rows in (1, 4, 1, 7):
        x, time, condition = inputs(rows)
        repeated = (x, time[:1].expand(rows), condition[:1].expand(rows, -1, -1))
        expected = exact(*(part.double() for part in repeated))
        features = made.of_condition(condition[:1])
        with torch.inference_mode():
            fast = act(x, made.of_time(time[:1]), features).clone()
            assert (fast - expected).abs().max() < 1e-5
            again = act(x, made.of_time(time[:1]), features)
            torch.testing.assert_close(again, fast, rtol=0, atol=0)


@nets
def test_acting_has_the_gradient_of_the_module(net: str) -> None:
    made = small(net).requires_grad_(False)
    act = made.acting()
    x, time, condition = inputs(3)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(made(x, time, condition).square().sum(), x)
    out = act(x, made.of_time(time), made.of_condition(condition))
    (fast,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)


def test_acting_keeps_its_weights() -> None:
    made = small("unet").requires_grad_(False)
    act = made.acting()
    x, time, condition = inputs(1)
    features = made.of_time(time), made.of_condition(condition)
    before = act(x, *features)
    kept = copy.deepcopy(made)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1
    torch.testing.assert_close(act(x, *features), before, rtol=0, atol=0)
    torch.testing.assert_close(kept.acting()(x, *features), before, rtol=0, atol=0)


def test_the_big_unet_has_about_four_million_parameters_and_acts_as_it_learned() -> None:
    torch.manual_seed(0)
    made = Unet(7, 16, 2 * 40, channels=(56, 112, 224)).requires_grad_(False)
    assert 3.5e6 < sum(p.numel() for p in made.parameters()) < 4.5e6
    x, time, condition = torch.randn(2, 16, 7), torch.rand(2), torch.randn(2, 2, 40)
    with torch.inference_mode():
        fast = made.acting()(x, made.of_time(time), made.of_condition(condition))
    torch.testing.assert_close(fast, made(x, time, condition), rtol=0, atol=1e-5)


def test_the_transformer_is_causal() -> None:
    made = small("transformer")
    x, time, condition = inputs(2)
    out = made(x, time, condition)
    for place in range(CHUNK):
        changed = x.clone()
        changed[:, place] += 1.0
        moved = (made(changed, time, condition) - out).abs().amax(dim=(0, 2))
        assert (moved[:place] == 0.0).all()
        assert (moved[place:] > 1e-5).all()


def test_the_time_embedding_tells_neighbouring_levels_apart() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(64)(torch.arange(100) / 100.0)
    assert torch.pdist(embedding).min() > 1e-3


def test_sizes_that_do_not_go_together_are_named() -> None:
    with pytest.raises(ConfigError, match="chunk is 6; a U-Net of 3 levels needs a multiple of 4"):
        Unet(ACTIONS, 6, 10)
    with pytest.raises(ConfigError, match=r"multiples of 8, got 5 and \(12,\)"):
        Unet(ACTIONS, 4, 10, channels=(12,))
    with pytest.raises(ConfigError, match="width 10 is no multiple of 4 heads"):
        Transformer(ACTIONS, 4, 1, 10, width=10, heads=4)
