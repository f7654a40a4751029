"""A success classifier on disk: ``classifier.safetensors`` and ``classifier.json``; nothing that is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from robolearn.core.errors import ConfigError, CorruptDataError
from robolearn.core.files import write_atomic
from robolearn.core.jsonable import jsonable
from robolearn.core.spec import Array
from robolearn.rewards.parts.calibrate import Calibration
from robolearn.rewards.parts.network import FrameNetwork, Inputs

FORMAT = 1
_WEIGHTS, _FACTS = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True)
class Shape:
    """Size of a classifier's network, see ``FrameNetwork``."""

    hidden: tuple[int, ...] = (32,)
    channels: tuple[int, ...] = (16, 32, 32)
    width: int = 32


@dataclass(frozen=True)
class Classifier:
    """A trained success classifier.

    Attributes:
        network: in evaluation mode.
        shape: of the network.
        calibration: from its logits to probabilities.
        threshold: above which a frame is a success.
        report: how it was trained and what its thresholds do.
    """

    network: FrameNetwork
    shape: Shape
    calibration: Calibration
    threshold: float
    report: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, observation: Mapping[str, Array]) -> Array:
        """(B,) probabilities that frames (B, *shape) show a success."""
        keys = (*self.network.inputs.vector, *self.network.inputs.images)
        with torch.no_grad():
            tensors = {key: torch.from_numpy(np.ascontiguousarray(observation[key])) for key in keys}
            return self.calibration(self.network(tensors).numpy())


def write(classifier: Classifier, folder: Path) -> None:
    """Save a classifier; the folder is made. Where it is interrupted the folder holds none."""
    folder.mkdir(parents=True, exist_ok=True)
    network = classifier.network
    facts = {
        "format": FORMAT,
        "vector": network.inputs.vector,
        "images": network.inputs.images,
        "shape": asdict(classifier.shape),
        "calibration": asdict(classifier.calibration),
        "threshold": classifier.threshold,
        "report": classifier.report,
    }
    (folder / _FACTS).unlink(missing_ok=True)
    weights = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in network.state_dict().items()}
    write_atomic(folder / _WEIGHTS, save(weights))
    write_atomic(folder / _FACTS, json.dumps(jsonable(facts), indent=1).encode())


def exists(folder: Path) -> bool:
    """Whether a whole classifier has been saved there: its facts are written last."""
    return (folder / _FACTS).is_file()


def facts(folder: Path) -> dict[str, Any]:
    """What is known of a saved classifier.

    Raises:
        ConfigError: there is none in the folder, or it is of another format.
        CorruptDataError: it is damaged.
    """
    try:
        found = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no classifier in {folder} (make one: robolearn reward train PATH --out DIR)") from None
    except ValueError as error:
        raise CorruptDataError(f"{folder / _FACTS}: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f"{folder}: not a classifier of format {FORMAT}")
    return found


def read(folder: Path) -> Classifier:
    """Load a classifier; raises like ``facts``."""
    found = facts(folder)
    try:
        inputs = Inputs(*({key: tuple(shape) for key, shape in found[name].items()} for name in ("vector", "images")))
        given = found["shape"]
        shape = Shape(tuple(given["hidden"]), tuple(given["channels"]), given["width"])
        network = FrameNetwork(inputs, shape.hidden, shape.channels, shape.width)
        arrays = load((folder / _WEIGHTS).read_bytes())
        network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        calibration, threshold = Calibration(**found["calibration"]), float(found["threshold"])
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CorruptDataError(f"classifier in {folder}: {' '.join(str(error).split())}") from error
    return Classifier(network.eval(), shape, calibration, threshold, found.get("report") or {})
