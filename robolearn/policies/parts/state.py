"""Tensors to arrays and back, with a message that names every difference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robolearn.core.errors import ResumeError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Copies of tensors as contiguous numpy arrays of at least one dimension (what safetensors stores)."""
    return {name: np.atleast_1d(np.array(t.detach().cpu().numpy(), order="C")) for name, t in tensors.items()}


def check_same(what: str, got: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Require exactly the expected names and shapes.

    Raises:
        ResumeError: names every difference.
    """
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in got]
    problems += [f"unexpected {name} {got[name].shape}" for name in got if name not in expected]
    problems += [
        f"{name} expected {shape}, got {got[name].shape}"
        for name, shape in expected.items()
        if name in got and got[name].shape != shape
    ]
    if problems:
        raise ResumeError(
            f"{what} do not fit this configuration: {'; '.join(problems)}; "
            "use the configuration and task they were made with"
        )


def load_arrays(what: str, tensors: Mapping[str, Tensor], arrays: Weights) -> None:
    """Copy arrays into tensors in place, all or none.

    Raises:
        ResumeError: names or shapes differ.
    """
    check_same(what, arrays, {name: tuple(t.shape) or (1,) for name, t in tensors.items()})
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.array(arrays[name])).reshape(tensor.shape))


def optimiser_tensors(adam: torch.optim.Adam, prefix: str) -> dict[str, Tensor]:
    """Live moments and step counts of all parameters; made now if there has been no step yet."""
    named: dict[str, Tensor] = {}
    parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
    for i, parameter in enumerate(parameters):
        entry = adam.state[parameter]
        if not entry:
            entry["step"] = torch.zeros(())
            entry["exp_avg"], entry["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        named |= {f"{prefix}.{i}.{key}": entry[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return named


def below(prefix: str, arrays: Weights) -> dict[str, Array]:
    """The arrays whose names begin with ``prefix``, named without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


class TakesWeights(ABC):
    """A policy that takes its weights as a whole or not at all."""

    _expected: Mapping[str, tuple[int, ...]]

    @abstractmethod
    def _set(self, arrays: Mapping[str, Array]) -> None:
        """Act with these: float32, with the names and shapes of ``_expected``, its own to keep."""

    def load(self, weights: Weights) -> None:
        """Take new weights as a whole.

        Raises:
            ResumeError: they belong to another network or task.
        """
        check_same("policy weights", weights, self._expected)
        self._set({name: np.array(value, dtype=np.float32, order="C") for name, value in weights.items()})


class Resumable(ABC):
    """A learner that goes on where it was saved: all its tensors by name, and one random generator on the CPU."""

    _rng: torch.Generator

    @abstractmethod
    def _everything(self) -> dict[str, Tensor]:
        """Live tensors: parameters, targets, optimiser moments, normaliser."""

    def state(self) -> Weights:
        """All tensors and the random state (copies)."""
        return to_arrays(self._everything() | {"rng": self._rng.get_state()})

    def restore(self, state: Weights) -> None:
        """Inverse of ``state``.

        Raises:
            ResumeError: names or shapes differ; the message names each difference.
        """
        rng = self._rng.get_state()
        load_arrays("learner state", self._everything() | {"rng": rng}, state)
        self._rng.set_state(rng)
