"""The numpy forward pass of a stack is that of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robolearn.policies.parts import mlp
from robolearn.policies.parts.flat import Flat
from robolearn.policies.parts.mlp import MlpShape
from robolearn.policies.parts.stack import NumpyStack


@pytest.mark.parametrize("layer_norm", [False, True])
def test_numpy_follows_torch(layer_norm: bool) -> None:
    shape, rng = MlpShape(4, 6, (8, 5), 2, layer_norm), torch.Generator().manual_seed(0)
    values = Flat(shape.parameters)
    shape.initialise(values, rng)
    values.data += 0.1 * torch.randn(values.data.shape, generator=rng)
    arrays = {f"q.{name}": view.numpy() for name, view in values.views.items()}
    stack = NumpyStack(shape, arrays, "q.")
    x = torch.randn(7, 6, generator=rng)
    expected = mlp.reference(shape, values.views, x).numpy()
    np.testing.assert_allclose(stack(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    members = np.array([2, 0])
    np.testing.assert_allclose(stack(x.numpy(), members), expected[members], rtol=1e-4, atol=1e-5)
    kept = stack(x.numpy())
    values.data.zero_()
    np.testing.assert_array_equal(stack(x.numpy()), kept)
