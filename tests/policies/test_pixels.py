"""Image encoder and augmentation."""

from __future__ import annotations

import numpy as np
import torch

from robolearn.policies import rlpd
from robolearn.policies.parts import mlp
from robolearn.policies.parts.pixels import Encoder, random_shift

from .helpers import batch, learner, pixel_spec


def test_random_shift_moves_images_within_the_pad_and_repeats_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    height, width, pad = 6, 7, 2
    image = torch.arange(height * width * 3, dtype=torch.uint8).view(height, width, 3)
    shifted = random_shift(image.expand(200, height, width, 3), pad, generator)
    seen = set()
    for one in shifted:
        matches = []
        for dy in range(-pad, pad + 1):
            for dx in range(-pad, pad + 1):
                rows = (torch.arange(height) + dy).clamp(0, height - 1)
                columns = (torch.arange(width) + dx).clamp(0, width - 1)
                if torch.equal(one, image[rows][:, columns]):
                    matches.append((dy, dx))
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 25
    assert random_shift(image[None], 0, generator).equal(image[None])


def test_encoder_gives_bounded_embeddings_of_each_camera() -> None:
    images = (("side", (12, 16, 3)), ("wrist", (13, 9, 3)))
    encoder = Encoder(images, (4, 4, 4), 5, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    one = {key: torch.from_numpy(rng.integers(0, 256, (2, *shape), dtype=np.uint8)) for key, shape in images}
    out = encoder(one)
    assert out.shape == (2, 10)
    assert out.abs().max() < 1.0
    other = encoder({**one, "wrist": 255 - one["wrist"]})
    assert torch.equal(out[:, :5], other[:, :5])
    assert (out[:, 5:] - other[:, 5:]).abs().max() > 1e-3


def test_encoder_learns_from_the_critics_loss_alone() -> None:
    """Its gradient after an update is autograd's of the critics' loss; the actor's update adds nothing."""
    spec = pixel_spec()
    config = rlpd.Config(hidden=16, batch=8, utd=1, image_channels=(4,), image_width=4, shift_pad=0)
    made, twin = learner(rlpd, config, spec), learner(rlpd, config, spec)
    data = batch(spec, made.batch_rows)
    made.update(data)

    with torch.no_grad():  # the random numbers of an update, in its order
        subset = torch.rand(1, config.critics, generator=twin._rng).topk(config.target_critics).indices[0]
        rows = twin._read(data)
        target = twin._target_values(next(twin._minibatches(rows, twin._following)), subset)
    embedding = twin._encoder(rows.images)
    inputs = torch.cat([embedding, rows.vector, rows.action], -1)
    q = mlp.reference(twin._critics.shape, twin._critics.values.views, inputs)[:, :, 0]
    (q - target).square().mean().backward()
    expected = dict(twin._encoder.named_parameters())
    for name, tensor in made._encoder.named_parameters():
        torch.testing.assert_close(tensor.grad, expected[name].grad, rtol=1e-3, atol=1e-6, msg=name)
        assert not torch.equal(tensor, expected[name])
