"""Acting: the running average acts greedily, the newest actor explores, each episode by its own amount."""

from __future__ import annotations

import numpy as np
import torch

from robolearn.core.spec import ArraySpec
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.acting import ActorShape, NetworkPolicy
from robolearn.policies.parts.average import ActorAverage
from robolearn.policies.parts.flat import Flat
from robolearn.policies.parts.pixels import Encoder


def follow(share: float, values: list[float]) -> tuple[Flat, ActorAverage]:
    actor = Flat({"w0": (1, 2, 3)})
    average = ActorAverage(actor, None, share)
    for count, value in enumerate(values, 1):
        actor.data.fill_(value)
        average.update(torch.tensor(float(count)))
    return actor, average


def test_plain_mean_first_then_exponential() -> None:
    values = [5.0, 1.0, 3.0, -1.0]
    np.testing.assert_allclose(follow(0.01, values)[1].actor.views["w0"].numpy(), np.mean(values), rtol=1e-6)
    long = [1.0, 2.0, 3.0, 4.0]
    expected = 0.5 * 4.0 + 0.5 * (0.5 * 3.0 + 0.5 * 1.5)  # mean of two, then half of each newcomer
    np.testing.assert_allclose(follow(0.5, long)[1].actor.views["w0"].numpy(), expected, rtol=1e-6)


def test_share_of_one_follows_exactly() -> None:
    actor, average = follow(1.0, [5.0, 1.0])
    np.testing.assert_array_equal(average.actor.data.numpy(), actor.data.numpy())


def test_encoder_is_averaged_and_apart() -> None:
    encoder = Encoder((("wrist", (16, 16, 3)),), (4,), 4, torch.Generator().manual_seed(0))
    average = ActorAverage(Flat({"w0": (1, 2, 3)}), encoder, 0.5)
    assert average.encoder is not None
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.no_grad():
        for tensor in encoder.parameters():
            tensor += 1.0
    average.update(torch.tensor(10.0))
    for name, tensor in average.encoder.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), before[name].numpy() + 0.5, rtol=1e-5, atol=1e-6)
    names = set(average.tensors())
    assert "average.actor.w0" in names
    assert any(name.startswith("average.encoder.") for name in names)


def test_the_average_acts_greedily_and_the_newest_explores() -> None:
    spec = TaskSpec("t", {"state": ArraySpec("state", (2,))}, ArraySpec("action", (1,), low=-1.0, high=1.0), 10, 10.0)
    shape = ActorShape((), 2, 5.0, (-30.0, -30.0), averaged=True)
    policy = NetworkPolicy(shape, spec, seed=0)
    newest, average = np.float32([[0.5, 0.0], [0.0, 0.0]]), np.float32([[-0.5, 0.0], [0.0, 0.0]])
    weights = {"actor.w0": newest, "actor.b0": np.zeros(2, np.float32)}
    weights |= {"average.actor.w0": average, "average.actor.b0": np.zeros(2, np.float32)}
    policy.load(weights | {"normaliser.mean": np.zeros(2, np.float32), "normaliser.std": np.ones(2, np.float32)})
    seen = {"state": np.float32([1.0, 0.0])}
    np.testing.assert_allclose(policy.act(seen, explore=True), np.tanh([0.5]), atol=1e-6)
    np.testing.assert_allclose(policy.act(seen, explore=False), np.tanh([-0.5]), atol=1e-6)


def test_each_episode_draws_its_own_amount_of_noise() -> None:
    spec = TaskSpec("t", {"state": ArraySpec("state", (2,))}, ArraySpec("action", (1,), low=-1.0, high=1.0), 10, 10.0)
    seen = {"state": np.float32([0.0, 0.0])}

    def spread(low: float, high: float) -> list[float]:
        policy = NetworkPolicy(ActorShape((), 2, 5.0, (-3.0, -3.0), noise_scale=(low, high)), spec, seed=0)
        found = []
        for _ in range(20):
            policy.reset()
            found.append(float(np.std([policy.act(seen, explore=True) for _ in range(50)])))
        return found

    constant, varied = spread(1.0, 1.0), spread(0.0, 1.0)
    assert min(constant) > 0.6 * np.exp(-3.0)
    assert min(varied) < 0.2 * np.exp(-3.0)
    assert max(varied) > 0.6 * np.exp(-3.0)
    assert max(spread(0.0, 0.0)) == 0.0
