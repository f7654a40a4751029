"""From a batch of the replay to the tensors that one critic update after the other learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robolearn.core.errors import SpecError
from robolearn.core.spec import Array
from robolearn.core.types import Batch
from robolearn.policies.parts.observation import Normaliser, ObservationLayout
from robolearn.policies.parts.pixels import Encoder, random_shift
from robolearn.policies.parts.symmetry import Augmentation
from robolearn.policies.parts.tanh_normal import ACTION_LIMIT

Following = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(features of s', proposals at s') -> (critic inputs (s', a'), log pi(a'|s') (B,))."""


@dataclass(frozen=True)
class Rows:
    """A whole batch on the learner's device; standardised vectors, raw images.

    ``proposals`` (B, N, A) are the actions that a frozen base offered at s, as they were stored; N is 0 without one.
    """

    vector: Tensor
    next_vector: Tensor
    images: dict[str, Tensor]
    next_images: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    discount: Tensor
    demo: Tensor
    proposals: Tensor
    next_proposals: Tensor


@dataclass(frozen=True)
class Mini:
    """One critic update's rows: features of s, critic inputs (s, a) and (s', a'), log pi(a'|s')."""

    features: Tensor
    inputs: Tensor
    next_inputs: Tensor
    next_log_density: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    demo: Tensor
    proposals: Tensor


class RowReader:
    """Reads batches: augments, standardises, brings to the device.

    Args:
        family: named in errors.
        rows: of every batch.
        layout: which observations make up the vector, which are images.
        augmentation: views of the task; each row is read in one drawn at random.
        normaliser: of the vector.
        actions: size A of an action.
        proposals: observation key that holds a base's proposals (N * A,), in the normalised action; empty for none.
        rng: draws the views.
    """

    def __init__(
        self,
        family: str,
        rows: int,
        layout: ObservationLayout,
        augmentation: Augmentation,
        normaliser: Normaliser,
        *,
        actions: int,
        proposals: str = "",
        rng: torch.Generator,
        device: torch.device,
    ) -> None:
        self._family, self._rows, self._actions, self._proposals = family, rows, actions, proposals
        self._layout, self._augmentation, self._normaliser = layout, augmentation, normaliser
        self._rng, self._device = rng, device

    def __call__(self, batch: Batch) -> Rows:
        """The batch's rows.

        Raises:
            SpecError: the batch has another number of rows.
        """
        if len(batch.action) != self._rows:
            raise SpecError(f"{self._family}: expected a batch of {self._rows} rows, got {len(batch.action)}")
        views = self._augmentation.draw(self._rows, self._rng)
        return Rows(
            self._tensor(self._standardise(batch.observation, views)),
            self._tensor(self._standardise(batch.next_observation, views)),
            {key: self._copied(batch.observation[key]) for key, _ in self._layout.images},
            {key: self._copied(batch.next_observation[key]) for key, _ in self._layout.images},
            self._tensor(self._action(batch.action, views)),
            self._tensor(np.array(batch.reward, dtype=np.float32)),
            self._tensor(np.array(batch.discount, dtype=np.float32)),
            self._tensor(np.array(batch.demo, dtype=np.float32)),
            self._tensor(self._proposed(batch.observation, views)),
            self._tensor(self._proposed(batch.next_observation, views)),
        )

    def _standardise(self, observation: Mapping[str, Array], views: Array) -> Array:
        return self._normaliser(self._augmentation.vectors(self._layout.concatenate_batch(observation), views))

    def _action(self, action: Array, views: Array) -> Array:
        clipped = np.clip(action, -ACTION_LIMIT, ACTION_LIMIT)
        return self._augmentation.actions(clipped, views).astype(np.float32)

    def _proposed(self, observation: Mapping[str, Array], views: Array) -> Array:
        """(B, N, A), each in the view of its row."""
        if not self._proposals:
            return np.zeros((self._rows, 0, self._actions), np.float32)
        flat = np.asarray(observation[self._proposals], np.float32).reshape(-1, self._actions)
        count = len(flat) // self._rows
        return self._action(flat, np.repeat(views, count)).reshape(self._rows, count, self._actions)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _copied(self, array: Array) -> Tensor:
        return self._tensor(np.array(array))


class Minibatches:
    """Splits rows into minibatches, encoding images on the way.

    Args:
        count, size: of the minibatches.
        encoder: of the images, if there are any.
        shift_pad: largest random shift of an image [pixels].
        rng: draws the shifts.
    """

    def __init__(self, count: int, size: int, encoder: Encoder | None, shift_pad: int, rng: torch.Generator) -> None:
        self._count, self._size = count, size
        self._encoder, self._shift_pad, self._rng = encoder, shift_pad, rng

    @property
    def rows_ahead(self) -> int:
        """Rows of one call of ``following``."""
        return self._size if self._encoder else self._count * self._size

    def __call__(self, rows: Rows, following: Following) -> Iterator[Mini]:
        """Minibatches in order.

        Without images all next actions are drawn at once, since the actor stands still meanwhile. With images each
        minibatch is encoded only when it is asked for: the encoder learns in between.
        """
        return self._of_states(rows, following) if self._encoder is None else self._of_pixels(rows, following)

    def _of_states(self, rows: Rows, following: Following) -> Iterator[Mini]:
        inputs = torch.cat([rows.vector, rows.action], -1)
        ahead = following(rows.next_vector, rows.next_proposals)
        tail = (rows.action, rows.reward, rows.discount, rows.demo, rows.proposals)
        for part in self._parts():
            yield Mini(*(column[part] for column in (rows.vector, inputs, *ahead, *tail)))

    def _of_pixels(self, rows: Rows, following: Following) -> Iterator[Mini]:
        for part in self._parts():
            action = rows.action[part]
            with torch.enable_grad():
                features = self._features(rows.vector[part], rows.images, part)
            ahead = following(self._features(rows.next_vector[part], rows.next_images, part), rows.next_proposals[part])
            inputs = torch.cat([features.detach(), action], -1)
            tail = (rows.reward[part], rows.discount[part], rows.demo[part], rows.proposals[part])
            yield Mini(features, inputs, *ahead, action, *tail)

    def _parts(self) -> Iterator[slice]:
        return (slice(k * self._size, (k + 1) * self._size) for k in range(self._count))

    def _features(self, vector: Tensor, images: Mapping[str, Tensor], part: slice) -> Tensor:
        """(B, F): embeddings of randomly shifted images beside the vector."""
        if self._encoder is None:
            return vector
        shifted = {key: random_shift(image[part], self._shift_pad, self._rng) for key, image in images.items()}
        return torch.cat([self._encoder(shifted), vector], -1)
