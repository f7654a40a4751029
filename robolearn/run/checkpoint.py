"""Checkpoints of the learner: whole or not there, verified before use, the newest sound one wins."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from robolearn.core.errors import CorruptDataError, ResumeError
from robolearn.core.files import fsync_dir
from robolearn.core.protocols import Weights

_LEARNER, _POLICY, _META = "learner.safetensors", "policy.safetensors", "meta.json"


@dataclass(frozen=True)
class Progress:
    """Counters of a learner at a checkpoint.

    Attributes:
        calls: ``Learner.update`` calls.
        updates: gradient updates.
        steps: robot steps in the buffer that the learner had seen.
        version: last published version.
        rng: state of the sampling generator (numpy bit generator state).
    """

    calls: int
    updates: int
    steps: int
    version: int
    rng: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    progress: Progress
    learner: Weights
    policy: Weights


def save_checkpoint(root: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write ``root/<calls>/`` durably, then drop all but the ``keep`` newest. Nothing is lost if this is killed.

    Newer ones can only be unsound, or this learner would have resumed from them; they do not count and stay. Only one
    process at a time may write to ``root``.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = checkpoint_path(root, checkpoint.progress.calls)
    tmp = root / f".{final.name}.{os.getpid()}.tmp"
    for half_written in root.glob(".*.tmp"):
        shutil.rmtree(half_written, ignore_errors=True)
    tmp.mkdir()
    try:
        blobs = {_LEARNER: save(dict(checkpoint.learner)), _POLICY: save(dict(checkpoint.policy))}
        hashes = {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()}
        blobs[_META] = json.dumps({"progress": asdict(checkpoint.progress), "sha256": hashes}, indent=1).encode()
        for name, blob in blobs.items():
            with open(tmp / name, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
        fsync_dir(tmp)
        shutil.rmtree(final, ignore_errors=True)
        tmp.rename(final)
        fsync_dir(root)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    for old in [path for path in list_checkpoints(root) if path <= final][:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoint_path(root: Path, calls: int) -> Path:
    """Where the checkpoint after so many learner calls lies."""
    return root / f"{calls:09d}"


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoint directories, oldest first; half-written ones are not among them."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name.isdigit())


def load_checkpoint(path: Path) -> Checkpoint:
    """Load and verify one checkpoint.

    Raises:
        CorruptDataError: a file is missing or fails its hash.
    """
    try:
        meta = json.loads((path / _META).read_bytes())
        blobs = {name: (path / name).read_bytes() for name in (_LEARNER, _POLICY)}
        for name, blob in blobs.items():
            if hashlib.sha256(blob).hexdigest() != meta["sha256"][name]:
                raise CorruptDataError(f"checkpoint {path}: {name} fails its hash")
        return Checkpoint(Progress(**meta["progress"]), load(blobs[_LEARNER]), load(blobs[_POLICY]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptDataError(f"checkpoint {path}: {error}") from error


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, or None if there is none, and what was wrong with newer ones."""
    problems: list[str] = []
    for path in reversed(list_checkpoints(root)):
        try:
            return load_checkpoint(path), problems
        except CorruptDataError as error:
            problems.append(str(error))
    return None, problems


def require_checkpoint(root: Path) -> Checkpoint:
    """The newest sound checkpoint.

    Raises:
        ResumeError: there is none.
    """
    checkpoint, problems = newest_checkpoint(root)
    if checkpoint is None:
        raise ResumeError("; ".join([f"no sound checkpoint in {root}", *problems]))
    return checkpoint
