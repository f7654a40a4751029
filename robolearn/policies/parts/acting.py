"""Acting: a policy's forward pass for one observation, in numpy, light enough for a control loop on one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from robolearn.core.spec import Array, Observation
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.flat import Flat
from robolearn.policies.parts.observation import Normaliser, ObservationLayout
from robolearn.policies.parts.pixels import Encoder, new_encoder
from robolearn.policies.parts.state import TakesWeights, below, load_arrays
from robolearn.policies.parts.tanh_normal import ACTION_LIMIT

AVERAGE = "average."
"""Prefix of the names of an averaged network's weights."""


@dataclass(frozen=True)
class ActorShape:
    """What a policy needs to know of its network.

    Attributes:
        hidden: width of each hidden layer.
        outputs: numbers the network gives: A for a deterministic policy, 2A (mean, log std) for a tanh-Normal one.
        observation_clip: standardised observations are clipped to this.
        log_std: bounds of the log standard deviation.
        image_channels, image_width: see ``CameraEncoder``.
        averaged: the weights hold a running average of the network beside the newest one.
        noise_scale: lowest and highest factor on the exploration noise; each episode draws its own.
        proposal: key of a base's action in the observation, which the network sees as it is after everything else;
            empty for none.
    """

    hidden: tuple[int, ...]
    outputs: int
    observation_clip: float
    log_std: tuple[float, float] = (0.0, 0.0)
    image_channels: tuple[int, ...] = ()
    image_width: int = 0
    averaged: bool = False
    noise_scale: tuple[float, float] = (1.0, 1.0)
    proposal: str = ""


class _Network:
    """One ReLU MLP behind an image encoder."""

    def __init__(self, encoder: Encoder | None) -> None:
        self.encoder = encoder
        self._layers: list[tuple[Array, Array]] = []

    def set(self, prefix: str, arrays: Mapping[str, Array]) -> None:
        """Take the parameters whose names begin with ``prefix``."""
        count = sum(name.startswith(f"{prefix}actor.w") for name in arrays)
        self._layers = [(arrays[f"{prefix}actor.w{i}"], arrays[f"{prefix}actor.b{i}"]) for i in range(count)]
        if self.encoder is not None:
            load_arrays("encoder weights", self.encoder.state_dict(), below(f"{prefix}encoder.", arrays))

    def __call__(self, vector: Array, observation: Observation, device: str) -> Array:
        """Raw outputs for a standardised vector and the images of an observation."""
        x = vector
        if self.encoder is not None:
            x = np.concatenate([self.encoder.of_one(observation, device), vector])
        for weight, bias in self._layers[:-1]:
            x = x @ weight
            x += bias
            np.maximum(x, 0.0, out=x)
        weight, bias = self._layers[-1]
        raw: Array = x @ weight + bias
        return raw


class NetworkPolicy(TakesWeights):
    """A ``Policy`` around one ReLU MLP. Its weights carry the normaliser they were trained with.

    A network with A outputs acts ``clip(output)``; one with 2A outputs is a tanh-Normal: ``tanh(mean)`` greedily,
    ``tanh(mean + scale * std * noise)`` when exploring. Where there is an average, it acts greedily and the newest
    explores.

    Args:
        shape: the network.
        spec: the task, without the proposal.
        seed: of the exploration noise.
        device: where the image encoder runs; the MLP always runs in numpy.
    """

    def __init__(self, shape: ActorShape, spec: TaskSpec, *, seed: int, device: str = "cpu") -> None:
        self._shape, self._layout = shape, ObservationLayout.of(spec)
        self._actions = spec.action.size
        self._stochastic = shape.outputs == 2 * self._actions
        self._rng = np.random.default_rng(seed)
        self._device, self._scale = device, 1.0
        self._newest = self._greedy = _Network(self._new_encoder(seed))
        if shape.averaged:
            self._greedy = _Network(self._new_encoder(seed))
        self._expected = self._shapes()
        blank = {name: np.zeros(size, np.float32) for name, size in self._expected.items()}
        self._set(blank | {"normaliser.std": np.ones(self._layout.size, np.float32)})

    def _new_encoder(self, seed: int) -> Encoder | None:
        shape, unused = self._shape, torch.Generator().manual_seed(seed)
        return new_encoder(self._layout.images, shape.image_channels, shape.image_width, unused, self._device)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        encoder = self._newest.encoder
        inputs = self._layout.size + (encoder.size if encoder else 0) + self._actions * bool(self._shape.proposal)
        widths = [inputs, *self._shape.hidden, self._shape.outputs]
        network: dict[str, tuple[int, ...]] = {}
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            network[f"actor.w{i}"], network[f"actor.b{i}"] = (fan_in, fan_out), (fan_out,)
        for name, tensor in (encoder.state_dict() if encoder else {}).items():
            network[f"encoder.{name}"] = tuple(tensor.shape)
        expected = network | {"normaliser.mean": (self._layout.size,), "normaliser.std": (self._layout.size,)}
        if self._shape.averaged:
            expected |= {AVERAGE + name: size for name, size in network.items()}
        return expected

    def reset(self) -> None:
        """Begin an episode: draw how much it explores. There is nothing to forget."""
        self._scale = float(self._rng.uniform(*self._shape.noise_scale))

    def _set(self, arrays: Mapping[str, Array]) -> None:
        self._normaliser = Normaliser(arrays["normaliser.mean"], arrays["normaliser.std"], self._shape.observation_clip)
        self._newest.set("", arrays)
        if self._shape.averaged:
            self._greedy.set(AVERAGE, arrays)

    def act(self, observation: Observation, *, explore: bool) -> Array:
        """Normalised action (A,) float32 in [-1, 1]."""
        vector = self._normaliser(self._layout.concatenate(observation))
        if self._shape.proposal:
            vector = np.concatenate([vector, observation[self._shape.proposal]])
        network = self._newest if explore else self._greedy
        raw = network(vector, observation, self._device)
        if self._stochastic:
            raw = self._squash(raw, explore)
        action: Array = np.minimum(np.maximum(raw, -ACTION_LIMIT), ACTION_LIMIT)
        return action.astype(np.float32, copy=False)

    def _squash(self, raw: Array, explore: bool) -> Array:
        mean = raw[: self._actions]
        if explore:
            low, high = self._shape.log_std
            std = np.exp(np.minimum(np.maximum(raw[self._actions :], low), high))
            mean = mean + np.float32(self._scale) * std * self._rng.standard_normal(self._actions, dtype=np.float32)
        squashed: Array = np.tanh(mean)
        return squashed


def acting_tensors(actor: Flat, encoder: Encoder | None) -> dict[str, Tensor]:
    """A network as ``NetworkPolicy`` loads it, by name, from a learner's stack of one network (live tensors)."""
    named = {f"actor.{name}": view[0, 0] if name.startswith("b") else view[0] for name, view in actor.views.items()}
    if encoder is not None:
        named |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    return named


def normaliser_tensors(normaliser: Normaliser) -> dict[str, Tensor]:
    """A normaliser as ``NetworkPolicy`` loads it, by name (live tensors)."""
    return {"normaliser.mean": torch.from_numpy(normaliser.mean), "normaliser.std": torch.from_numpy(normaliser.std)}
