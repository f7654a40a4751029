"""A ``Planner`` around a generative process: from observation frames to chunks of actions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robolearn.core.errors import SpecError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.chunk_config import ChunkConfig
from robolearn.policies.parts.chunk_model import ChunkModel
from robolearn.policies.parts.generation import Process, Steering
from robolearn.policies.parts.observation import Normaliser, ObservationLayout
from robolearn.policies.parts.realtime import Guide
from robolearn.policies.parts.state import below, check_same, load_arrays

_MODEL = "model."


class GenerativePlanner:
    """Samples plans. Until it is given weights it plans zeros.

    Everything that depends on the time alone is computed when weights arrive, on the observation alone once a plan;
    all plans asked for are generated in one batch.

    Args:
        config: the network.
        spec: the task.
        process: how actions are generated.
        seed: of the noise plans are generated from.
        device: where the network runs.

    Attributes:
        horizon, history: see ``Planner``.
    """

    def __init__(
        self, config: ChunkConfig, spec: TaskSpec, process: Process, *, seed: int, device: str = "cpu"
    ) -> None:
        self.horizon, self.history = config.chunk, config.history
        self._layout, self._actions = ObservationLayout.of(spec), spec.action.size
        self._process, self._device = process, torch.device(device)
        self._model = ChunkModel(config, self._layout, self._actions, seed=seed).to(self._device)
        self._model.eval().requires_grad_(False)
        self._rng = torch.Generator().manual_seed(seed)
        self._clip = config.observation_clip
        self._normaliser = Normaliser(np.zeros(0, np.float32), np.ones(0, np.float32), self._clip)
        self._loaded = False
        self._tensors = self._model.state_dict()
        size = (self._layout.size,)
        self._expected = {_MODEL + name: tuple(value.shape) for name, value in self._tensors.items()}
        self._expected |= {"normaliser.mean": size, "normaliser.std": size}

    def check(self, weights: Weights) -> None:
        """Raise ResumeError where ``load`` would; nothing is changed."""
        check_same("policy weights", weights, self._expected)

    def load(self, weights: Weights) -> None:
        """Take new weights as a whole.

        Raises:
            ResumeError: they belong to another network or task.
        """
        self.check(weights)
        load_arrays("policy weights", self._tensors, below(_MODEL, weights))
        mean, std = (np.array(weights[f"normaliser.{name}"], np.float32) for name in ("mean", "std"))
        self._normaliser = Normaliser(mean, std, self._clip)
        with torch.no_grad():
            self._denoise = self._model.denoiser.acting()
            table = self._model.denoiser.of_time(self._process.times.to(self._device))
            self._table = [table[k : k + 1] for k in range(len(table))]
        self._loaded = True

    def plan(self, observation: Mapping[str, Array], count: int, *, guide: Guide | None = None) -> Array:
        """See ``Planner``; the next ``count`` samples of this planner's noise."""
        noise = torch.randn(count, self.horizon, self._actions, generator=self._rng).to(self._device)
        if not self._loaded:
            return np.zeros(noise.shape, np.float32)
        steering = None if guide is None else self._steering(guide)
        with torch.no_grad() if steering else torch.inference_mode():
            features = self._model.denoiser.of_condition(self._condition(observation))

            def network(x: Tensor, k: int) -> Tensor:
                return self._denoise(x, self._table[k], features)

            out = self._process.generate(network, noise, steering)
            plans: Array = out.clamp_(-1.0, 1.0).cpu().numpy()
        return plans

    def _condition(self, observation: Mapping[str, Array]) -> Tensor:
        vector = self._normaliser(self._layout.concatenate_batch(observation))
        if len(vector) != self.history:
            raise SpecError(f"expected {self.history} observation frames, got {len(vector)}")
        images = {
            key: torch.from_numpy(np.ascontiguousarray(observation[key])).to(self._device).unsqueeze(0)
            for key, _ in self._layout.images
        }
        return self._model.condition(torch.from_numpy(vector).to(self._device).unsqueeze(0), images)

    def _steering(self, guide: Guide) -> Steering | None:
        """None where the guide asks for nothing."""
        expected = (self.horizon, self._actions)
        if guide.previous.shape != expected or guide.weights.shape != expected[:1]:
            raise SpecError(
                f"guide: expected {expected} actions and {expected[:1]} weights, "
                f"got {guide.previous.shape} and {guide.weights.shape}"
            )
        if not guide.weights.any():
            return None
        previous = torch.from_numpy(np.asarray(guide.previous, np.float32)).to(self._device)
        weights = torch.from_numpy(np.asarray(guide.weights, np.float32)).to(self._device)
        return Steering(previous, weights.unsqueeze(-1), guide.limit)
