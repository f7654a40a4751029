"""Acting: a policy's forward pass for one observation, in numpy, light enough for a control loop on one core."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from robolearn.core.protocols import Weights
from robolearn.core.spec import Array, Observation
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.flat import Flat
from robolearn.policies.parts.observation import Normaliser, ObservationLayout
from robolearn.policies.parts.pixels import Encoder
from robolearn.policies.parts.state import check_same, load_arrays
from robolearn.policies.parts.tanh_normal import ACTION_LIMIT


@dataclass(frozen=True)
class ActorShape:
    """What a policy needs to know of its network.

    Attributes:
        hidden: width of each hidden layer.
        outputs: numbers the network gives: A for a deterministic policy, 2A (mean, log std) for a tanh-Normal one.
        observation_clip: standardised observations are clipped to this.
        log_std: bounds of the log standard deviation.
        image_channels, image_width: see ``CameraEncoder``.
    """

    hidden: tuple[int, ...]
    outputs: int
    observation_clip: float
    log_std: tuple[float, float] = (0.0, 0.0)
    image_channels: tuple[int, ...] = ()
    image_width: int = 0


class NetworkPolicy:
    """A ``Policy`` around one ReLU MLP. Its weights carry the normaliser they were trained with.

    A network with A outputs acts ``clip(output)``; one with 2A outputs is a tanh-Normal: ``tanh(mean)`` greedily,
    ``tanh(mean + std * noise)`` when exploring.

    Args:
        shape: the network.
        spec: the task.
        seed: of the exploration noise.
        device: where the image encoder runs; the MLP always runs in numpy.
    """

    def __init__(self, shape: ActorShape, spec: TaskSpec, *, seed: int, device: str = "cpu") -> None:
        self._shape, self._layout = shape, ObservationLayout.of(spec)
        self._actions = spec.action.size
        self._stochastic = shape.outputs == 2 * self._actions
        self._rng = np.random.default_rng(seed)
        self._device = device
        self._encoder: Encoder | None = None
        if self._layout.images:
            unused = torch.Generator().manual_seed(seed)
            images = self._layout.images
            self._encoder = Encoder(images, shape.image_channels, shape.image_width, unused).to(device)
        self._expected = self._shapes()
        self._layers: list[tuple[Array, Array]] = []
        blank = {name: np.zeros(size, np.float32) for name, size in self._expected.items()}
        self._set(blank | {"normaliser.std": np.ones(self._layout.size, np.float32)})

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = self._layout.size + (self._encoder.size if self._encoder else 0)
        widths = [inputs, *self._shape.hidden, self._shape.outputs]
        expected: dict[str, tuple[int, ...]] = {}
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            expected[f"actor.w{i}"], expected[f"actor.b{i}"] = (fan_in, fan_out), (fan_out,)
        expected["normaliser.mean"] = expected["normaliser.std"] = (self._layout.size,)
        for name, tensor in (self._encoder.state_dict() if self._encoder else {}).items():
            expected[f"encoder.{name}"] = tuple(tensor.shape)
        return expected

    def reset(self) -> None:
        """Nothing to forget: the policy has no memory."""

    def load(self, weights: Weights) -> None:
        """Take new weights as a whole.

        Raises:
            ResumeError: they belong to another network or task.
        """
        check_same("policy weights", weights, self._expected)
        self._set(weights)

    def _set(self, weights: Weights) -> None:
        arrays = {name: np.array(value, dtype=np.float32, order="C") for name, value in weights.items()}
        self._layers = [(arrays[f"actor.w{i}"], arrays[f"actor.b{i}"]) for i in range(len(self._shape.hidden) + 1)]
        self._normaliser = Normaliser(arrays["normaliser.mean"], arrays["normaliser.std"], self._shape.observation_clip)
        if self._encoder is not None:
            prefix = "encoder."
            named = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            load_arrays("encoder weights", self._encoder.state_dict(), named)

    def act(self, observation: Observation, *, explore: bool) -> Array:
        """Normalised action (A,) float32 in [-1, 1]."""
        x = self._normaliser(self._layout.concatenate(observation))
        if self._encoder is not None:
            x = np.concatenate([self._embed(observation), x])
        for weight, bias in self._layers[:-1]:
            x = x @ weight
            x += bias
            np.maximum(x, 0.0, out=x)
        weight, bias = self._layers[-1]
        raw = x @ weight + bias
        if self._stochastic:
            raw = self._squash(raw, explore)
        action: Array = np.minimum(np.maximum(raw, -ACTION_LIMIT), ACTION_LIMIT)
        return action.astype(np.float32, copy=False)

    def _squash(self, raw: Array, explore: bool) -> Array:
        mean = raw[: self._actions]
        if explore:
            low, high = self._shape.log_std
            std = np.exp(np.minimum(np.maximum(raw[self._actions :], low), high))
            mean = mean + std * self._rng.standard_normal(self._actions, dtype=np.float32)
        squashed: Array = np.tanh(mean)
        return squashed

    def _embed(self, observation: Observation) -> Array:
        encoder = self._encoder
        if encoder is None:
            return np.zeros(0, np.float32)
        with torch.no_grad():
            images = {
                key: torch.from_numpy(np.ascontiguousarray(observation[key]))[None].to(self._device)
                for key in encoder.keys
            }
            embedding: Array = encoder(images)[0].cpu().numpy()
            return embedding


def acting_tensors(actor: Flat, normaliser: Normaliser, encoder: Encoder | None) -> dict[str, Tensor]:
    """What a ``NetworkPolicy`` loads, by name, from a learner's stack of one network (live tensors)."""
    named = {f"actor.{name}": view[0, 0] if name.startswith("b") else view[0] for name, view in actor.views.items()}
    named |= {"normaliser.mean": torch.from_numpy(normaliser.mean), "normaliser.std": torch.from_numpy(normaliser.std)}
    if encoder is not None:
        named |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    return named
