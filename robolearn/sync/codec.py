"""Weights as bytes: safetensors with a version and a hash over the whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.numpy import load, save

from robolearn.core.errors import CorruptDataError
from robolearn.core.protocols import Weights

MAGIC = b"RLW1"
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Snapshot:
    """Weights as published.

    Attributes:
        version: increases with each publication; -1 before the first.
        steps: robot steps the learner had seen.
        weights: tensor name -> array.
    """

    version: int
    steps: int
    weights: Weights


def encode(snapshot: Snapshot) -> bytes:
    """``MAGIC | sha256(rest) | header length (4 bytes, little endian) | JSON header | safetensors``."""
    header = json.dumps({"version": snapshot.version, "steps": snapshot.steps}).encode()
    body = len(header).to_bytes(4, "little") + header + save(dict(snapshot.weights))
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Snapshot:
    """Inverse of ``encode``.

    Raises:
        CorruptDataError: the bytes are not whole.
    """
    start = len(MAGIC) + _DIGEST
    digest, body = data[len(MAGIC) : start], data[start:]
    if data[: len(MAGIC)] != MAGIC or len(body) < 4 or hashlib.sha256(body).digest() != digest:
        raise CorruptDataError(f"weights of {len(data)} bytes fail their hash")
    size = int.from_bytes(body[:4], "little")
    header = json.loads(body[4 : 4 + size])
    try:
        weights = load(bytes(body[4 + size :]))
    except SafetensorError as error:
        raise CorruptDataError(f"weights of version {header['version']}: {error}") from error
    return Snapshot(int(header["version"]), int(header["steps"]), weights)
