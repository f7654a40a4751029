"""Train a success classifier from labelled frames.

    L = mean over a batch, half successes, half other frames, of the binary cross-entropy of the logit
        + sparsity * sum over the numbers of the vector of |weights they feed into the first layer|

There are few successes and many numbers that have nothing to do with them; without the second term, which takes the
latter out of sight, the former are learned by heart.

Episodes are split before anything else: frames of one episode look alike, so a frame of an episode that was trained on
says nothing of the next episode. The held-out episodes calibrate the logits (see ``calibrate``) and choose the
threshold; the report counts errors on the same episodes, which flatters them a little: two numbers and one of 16
thresholds were fitted to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robolearn.core.checks import at_least, positive
from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.spec import Array
from robolearn.rewards.parts import calibrate
from robolearn.rewards.parts.calibrate import Calibration
from robolearn.rewards.parts.network import FrameNetwork, Inputs
from robolearn.rewards.parts.saved import Classifier, Shape

_CHUNK = 512  # frames judged at once


@dataclass(frozen=True)
class Config:
    """Hyperparameters.

    Attributes:
        updates: gradient steps.
        batch: frames of one, half of them successes.
        lr: learning rate at the start; it falls to zero along a half cosine.
        weight_decay: decoupled weight decay (AdamW).
        sparsity: of the numbers that are looked at, see the module's docstring; 0 for no limit.
        noise: standard deviation of the noise added to standardised vectors.
        shift_pad: largest random shift of an image [pixels].
        brightness: largest random change of an image's brightness, as a share of the range.
        held_out: share of the episodes that is held out.
        false_positives: of 1000 frames without success, how many may be taken for one; the threshold follows.
        seed: of the split, the network and the batches.
    """

    updates: int = 1_500
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-2
    sparsity: float = 3.0
    noise: float = 0.01
    shift_pad: int = 4
    brightness: float = 0.1
    held_out: float = 0.3
    false_positives: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "updates")
        at_least(self, 2, "batch")
        at_least(self, 0, "shift_pad", "noise", "weight_decay", "sparsity", "brightness")
        positive(self, "lr", "false_positives")
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"held_out is {self.held_out}; it must lie between 0 and 1")


@dataclass(frozen=True)
class Frames:
    """Labelled frames.

    Attributes:
        observation: key -> (N, *shape).
        label: (N,) int8, 1 for a success, 0 for none, -1 for frames that are neither: not trained on, and counted only
            in the report on whole episodes.
        episode: (N,) number of the episode of each.
        row: (N,) its place in the episode.
    """

    observation: Mapping[str, Array]
    label: Array
    episode: Array
    row: Array

    def take(self, chosen: Array) -> Frames:
        """Some of them: an index or a mask."""
        observation = {key: array[chosen] for key, array in self.observation.items()}
        return Frames(observation, self.label[chosen], self.episode[chosen], self.row[chosen])


def split(frames: Frames, held_out: float, rng: np.random.Generator) -> Array:
    """(N,) bool, True for frames of held-out episodes; drawn apart for episodes with and without a success.

    Raises:
        ConfigError: fewer than two episodes have a success, or no frame is without one.
    """
    winners = np.unique(frames.episode[frames.label == 1])
    others = np.setdiff1d(frames.episode, winners)
    without = int((frames.label == 0).sum())
    if len(winners) < 2 or not without:
        raise ConfigError(
            f"expected at least 2 episodes with a success, and frames without one; got {len(winners)} such episodes "
            f"of {len(winners) + len(others)}, and {without} frames without a success"
        )
    chosen: list[Array] = []
    for group, least in ((winners, 1), (others, 0)):
        count = min(max(round(held_out * len(group)), least), max(len(group) - 1, 0))
        chosen.append(rng.permutation(group)[:count])
    return np.isin(frames.episode, np.concatenate(chosen))


def train(frames: Frames, inputs: Inputs, config: Config, shape: Shape, *, say: Callable[[int], None]) -> Classifier:
    """A calibrated classifier and its report.

    Args:
        frames: from several episodes.
        inputs: what it may look at.
        say: told after each gradient step how many there were.

    Raises:
        ConfigError: there are too few episodes, or nothing that holds can be learned from them.
        SpecError: a frame is not finite.
    """
    for key in inputs.vector:
        if not np.isfinite(frames.observation[key]).all():
            raise SpecError(f"frames: '{key}' is not finite everywhere")
    rng = np.random.default_rng(config.seed)
    apart = split(frames, config.held_out, rng)
    seen, unseen = (frames.take(part & (frames.label >= 0)) for part in (~apart, apart))
    for name, part in (("training", seen), ("held-out", unseen)):
        if part.label.all() or not part.label.any():
            raise ConfigError(f"the {name} episodes need frames with and without success; record more episodes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = FrameNetwork(inputs, shape.hidden, shape.channels, shape.width)
    losses = _fit(network, seen, config, rng, say)
    network.eval()
    logits = _judge(network, unseen.observation)
    calibration = calibrate.platt(logits, unseen.label)
    probabilities = calibration(logits)
    points = calibrate.points(probabilities, unseen.label)
    best, within = calibrate.choose(points, config.false_positives / 1000.0)
    whole = frames.take(apart)
    report: dict[str, Any] = {
        "training": _counts(seen),
        "held_out": _counts(unseen),
        "held_out_episodes": sorted({int(number) for number in unseen.episode}),
        "used": network.used(),
        "loss": float(np.mean(losses[-50:])),
        "separation": calibrate.separation(logits, unseen.label),
        "calibration_error": calibrate.expected_calibration_error(probabilities, unseen.label),
        "calibration_error_before": calibrate.expected_calibration_error(Calibration()(logits), unseen.label),
        "episodes": episodes(whole, calibration(_judge(network, whole.observation)) > best.threshold),
        "points": [asdict(point) for point in points],
        "threshold": best.threshold,
        "target": config.false_positives,
        "target_met": within,
        "config": asdict(config),
    }
    return Classifier(network, shape, calibration, best.threshold, report)


def _fit(
    network: FrameNetwork, frames: Frames, config: Config, rng: np.random.Generator, say: Callable[[int], None]
) -> list[float]:
    """Losses of all gradient steps."""
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in frames.observation.items()}
    vector = network.vector(tensors)
    network.mean.copy_(vector.mean(0))
    std = (vector - network.mean).square().mean(0).sqrt()
    network.std.copy_(torch.where(std > 1e-6, std, 1.0))
    vector = network.standardised(vector)
    images = {key: tensors[key] for key in network.inputs.images}
    label = torch.from_numpy(frames.label.astype(np.float32))
    groups = [np.flatnonzero(frames.label == group) for group in (1, 0)]
    adam = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    random = torch.Generator().manual_seed(int(rng.integers(2**31)))
    losses = []
    for step in range(config.updates):
        adam.param_groups[0]["lr"] = 0.5 * config.lr * (1.0 + math.cos(math.pi * step / config.updates))
        rows = torch.from_numpy(np.concatenate([rng.choice(group, config.batch // 2) for group in groups]))
        noisy = vector[rows]
        noisy = noisy + config.noise * torch.randn(noisy.shape, generator=random)
        changed = {key: _augmented(image[rows], config, random) for key, image in images.items()}
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network.logits(noisy, changed), label[rows])
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        network.shrink(config.sparsity * adam.param_groups[0]["lr"])
        losses.append(float(loss.detach()))
        say(step + 1)
    return losses


def _augmented(images: Tensor, config: Config, random: torch.Generator) -> Tensor:
    """Images (B, H, W, C) shifted, edges repeated, and made brighter or darker; each by its own draw."""
    count, height, width = images.shape[:3]
    offsets = torch.randint(-config.shift_pad, config.shift_pad + 1, (2, count, 1), generator=random)
    rows = (torch.arange(height) + offsets[0]).clamp_(0, height - 1)
    columns = (torch.arange(width) + offsets[1]).clamp_(0, width - 1)
    index = torch.arange(count)[:, None, None]
    light = 255.0 * config.brightness * (2.0 * torch.rand((count, 1, 1, 1), generator=random) - 1.0)
    return (images[index, rows[:, :, None], columns[:, None, :]].float() + light).clamp_(0.0, 255.0)


def _judge(network: FrameNetwork, observation: Mapping[str, Array]) -> Array:
    """(N,) logits."""
    count = len(next(iter(observation.values())))
    found = []
    with torch.no_grad():
        for first in range(0, count, _CHUNK):
            part = {key: np.ascontiguousarray(array[first : first + _CHUNK]) for key, array in observation.items()}
            found.append(network({key: torch.from_numpy(array) for key, array in part.items()}).numpy())
    return np.concatenate(found)


def episodes(frames: Frames, above: Array) -> dict[str, Any]:
    """What a threshold means for whole episodes.

    Args:
        frames: all frames of some episodes.
        above: (N,) bool, which of them are above the threshold.

    Returns:
        ``successes`` and how many of them are ``found`` (any frame above), how many steps ``early`` (from the first
        frame above to the first of success, sorted), and of the ``others`` in how many a success is seen: ``false``.
    """
    early: list[int] = []
    successes = others = false = 0
    for number in np.unique(frames.episode):
        mine = frames.episode == number
        hits, marked = frames.row[mine & above], frames.row[mine & (frames.label == 1)]
        if len(marked):
            successes += 1
            early += [int(marked.min() - hits.min())] if len(hits) else []
        else:
            others, false = others + 1, false + bool(len(hits))
    return {
        "successes": successes, "found": len(early), "early": sorted(early), "others": others, "false": int(false)
    }  # fmt: skip


def _counts(frames: Frames) -> dict[str, int]:
    return {
        "episodes": len(np.unique(frames.episode)),
        "successes": int((frames.label == 1).sum()),
        "others": int((frames.label == 0).sum()),
    }
