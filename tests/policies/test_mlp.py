"""Hand-written forward and backward passes against autograd."""

from __future__ import annotations

import pytest
import torch

from robolearn.policies.parts import mlp
from robolearn.policies.parts.flat import Adam, Flat
from robolearn.policies.parts.mlp import MlpShape, Workspace

CPU = torch.device("cpu")
SHAPES = {
    "critics": MlpShape(3, 7, (16, 12), 1, layer_norm=True),
    "critics without LayerNorm": MlpShape(3, 7, (16, 12), 1),
    "actor": MlpShape(1, 7, (16,), 4),
    "three layers": MlpShape(2, 5, (8, 8, 8), 3, layer_norm=True),
}


def random_values(shape: MlpShape) -> Flat:
    generator = torch.Generator().manual_seed(1)
    values = Flat(shape.parameters)
    shape.initialise(values, generator)
    for view in values.views.values():  # gains and offsets that matter
        view.add_(0.3 * torch.randn(view.shape, generator=generator))
    return values


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_passes_equal_autograd(shape: MlpShape, dropout: float) -> None:
    generator = torch.Generator().manual_seed(2)
    values, work = random_values(shape), Workspace(shape, 9, CPU)
    x = torch.randn(9, shape.inputs, generator=generator)
    d_out = torch.randn(shape.members, 9, shape.outputs, generator=generator)
    masks = mlp.dropout_masks(shape, 9, dropout, generator, CPU)
    leaves = {name: view.clone().requires_grad_() for name, view in values.views.items()}
    x_leaf = x.clone().requires_grad_()
    expected = mlp.reference(shape, leaves, x_leaf, masks=masks)
    (expected * d_out).sum().backward()
    for _ in range(2):  # the second time in used memory
        out = mlp.forward(shape, values.views, x, work, masks=masks)
        torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-5)
        grads = values.like()
        d_x = mlp.backward(shape, values.views, work, d_out, grads=grads.views, input_grad=True)
        torch.testing.assert_close(d_x, x_leaf.grad, rtol=1e-4, atol=1e-5)
        for name, leaf in leaves.items():
            torch.testing.assert_close(grads.views[name], leaf.grad, rtol=1e-4, atol=1e-5, msg=name)
    mlp.forward(shape, values.views, x, work, masks=masks)
    torch.testing.assert_close(mlp.input_gradient(shape, values.views, work, d_out), x_leaf.grad, rtol=1e-4, atol=1e-5)


def test_layer_norm_comes_after_dense_with_gain_and_offset() -> None:
    shape = MlpShape(1, 2, (2,), 1, layer_norm=True)
    values = Flat(shape.parameters)
    for name, numbers in {"w0": [[3.0, 1.0], [0.0, 0.0]], "gain0": [2.0, 5.0], "offset0": [0.5, 6.0]}.items():
        values.views[name][0].copy_(torch.tensor(numbers))
    values.views["w1"].fill_(1.0)
    out = mlp.forward(shape, values.views, torch.tensor([[1.0, 0.0]]), Workspace(shape, 1, CPU))
    # Dense gives (3, 1), normalised (1, -1), gain and offset (2.5, 1), ReLU keeps both
    assert out.item() == pytest.approx(3.5, abs=1e-4)


def test_bf16_products_are_close_and_not_equal() -> None:
    shape = SHAPES["critics"]
    values, work, x = random_values(shape), Workspace(shape, 9, CPU), torch.ones(9, 7)
    exact = mlp.forward(shape, values.views, x, work).clone()
    rough = mlp.forward(shape, values.views, x, work, precision="bf16")
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(rough, exact)


def test_flat_views_cover_each_network_apart() -> None:
    values = Flat({"w": (3, 2, 5), "b": (3, 1, 5)})
    values.views["w"][1].fill_(1.0)
    values.views["b"][2].fill_(2.0)
    assert values.networks.sum(1).tolist() == [0.0, 10.0, 10.0]
    assert values.data.sum() == 20.0


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_equals_torch(weight_decay: float) -> None:
    values = Flat({"w": (2, 3, 4)})
    values.data.copy_(torch.linspace(-1.0, 1.0, len(values.data)))
    parameter = torch.nn.Parameter(values.views["w"].clone())
    mine = Adam(values, 0.01, weight_decay=weight_decay)
    theirs = torch.optim.AdamW([parameter], lr=0.01, weight_decay=weight_decay)
    for step in range(5):
        gradient = torch.sin(torch.arange(24.0) + step).view(2, 3, 4)
        mine.grads.views["w"].copy_(gradient)
        parameter.grad = gradient.clone()
        mine.step()
        theirs.step()
    torch.testing.assert_close(values.views["w"], parameter.detach())


def test_gradient_clipping_limits_the_norm() -> None:
    values = Flat({"w": (1, 2)})
    adam = Adam(values, 0.01, grad_clip=1.0)
    adam.grads.views["w"].copy_(torch.tensor([[3.0, 4.0]]))
    adam.step()
    torch.testing.assert_close(adam.grads.views["w"], torch.tensor([[0.6, 0.8]]))
