"""The cameras of one arm as part of its observation: good images only, and no action while there are none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from robolearn.core.errors import RobolearnError
from robolearn.core.spec import Array, ArraySpec
from robolearn.ros.cameras import CameraFeed, Frame

_PATIENCE_S, _POLL_S = 5.0, 0.005


class BlindError(RobolearnError):
    """A camera has shown nothing usable for too long."""


class Eyes:
    """Feeds of several cameras; topic ``<name>/image_raw`` in the node's namespace, or its compressed sibling.

    Attributes:
        waits: how often an observation had to wait for a usable image.
    """

    def __init__(self, node: Any, names: Sequence[str], *, size: int, compressed: bool = False) -> None:
        """Subscribe; ``size`` is the width and height every image must have [px]."""
        self.waits = 0
        self._size = size
        self._feeds = {
            name: CameraFeed(node, f"{name}/image_raw", compressed=compressed, shape=(size, size)) for name in names
        }

    def specs(self) -> dict[str, ArraySpec]:
        """Observation specs, ``camera/<name>``."""
        shape = (self._size, self._size, 3)
        return {f"camera/{name}": ArraySpec(f"camera/{name}", shape, "uint8", "rgb") for name in self._feeds}

    def look(self) -> dict[str, Array]:
        """A usable image of every camera. While one is stale, frozen, black or of another size, this waits.

        Nobody acts meanwhile, so the robot host holds the arm.

        Raises:
            BlindError: a camera shows nothing usable for 5 s; the message says what is wrong with it.
        """
        deadline, waited = time.monotonic() + _PATIENCE_S, False
        while True:
            frames = {name: feed.frame() for name, feed in self._feeds.items()}
            bad = [frame.problem for frame in frames.values() if frame.problem or frame.image is None]
            if not bad:
                self.waits += waited
                return {f"camera/{name}": _copy(frame) for name, frame in frames.items()}
            if time.monotonic() > deadline:
                raise BlindError(f"no usable image for {_PATIENCE_S:g} s: {'; '.join(bad)}")
            waited = True
            time.sleep(_POLL_S)


def _copy(frame: Frame) -> Array:
    return np.array(frame.image)
