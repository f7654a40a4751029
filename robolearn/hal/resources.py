"""Resources: things that can be leased, and how the compute of this machine is found.

A probe is a function without arguments that returns ``Found``; one that lacks its library says so in ``problem``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from robolearn.core.errors import ConfigError, MissingDependencyError, suggest

SHARED_KINDS = frozenset({"gpu", "cpu"})
"""Kinds that are leased in fractions; of anything else there is one holder at a time."""

_SMI_FIELDS = "index,uuid,name,memory.total"
_SMI_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Resource:
    """Something that can be leased.

    Attributes:
        id: unique on this host, for example ``fr3:left`` or ``gpu:GPU-1f2e``.
        kind: ``robot``, ``gpu``, ``cpu``, ``camera``, ...
        labels: what a request may ask for, for example ``{"site": "labA"}``.
        capacity: how much there is to share (GPUs: 1; CPUs: cores); exclusive resources have 1.
        simulated: nothing can be hurt: a lease whose holder is dead may be cleared without a person.
    """

    id: str
    kind: str
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: float = 1.0
    simulated: bool = False

    def __post_init__(self) -> None:
        if not self.id or not self.kind:
            raise ConfigError(f"a resource needs an id and a kind, got id '{self.id}', kind '{self.kind}'")
        if not 0 < self.capacity < float("inf"):
            raise ConfigError(f"resource {self.id}: capacity must be finite and above 0, got {self.capacity}")
        if self.exclusive and self.capacity != 1.0:
            raise ConfigError(f"resource {self.id}: a {self.kind} is exclusive, so capacity is 1, got {self.capacity}")

    @property
    def exclusive(self) -> bool:
        """True when there is one holder at a time."""
        return self.kind not in SHARED_KINDS


@dataclass(frozen=True)
class Found:
    """What a probe found, or why it could not look."""

    resources: tuple[Resource, ...] = ()
    problem: str = ""


def probe_cpu() -> Found:
    """The cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Found((Resource(f"cpu:{socket.gethostname()}", "cpu", {}, float(cores)),))


def probe_gpus() -> Found:
    """NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves, through the nvidia-smi command (no library needed)."""
    if shutil.which("nvidia-smi") is None:
        return Found(problem="nvidia-smi is not installed, so no NVIDIA GPU is known; install the NVIDIA driver")
    command = ["nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Found(problem=f"nvidia-smi did not answer: {error}")
    if done.returncode != 0:
        return Found(problem=f"nvidia-smi failed: {' '.join((done.stderr or done.stdout).split())}")
    return Found(parse_smi(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")))


def parse_smi(text: str, visible: str | None) -> tuple[Resource, ...]:
    """GPUs in nvidia-smi's CSV (index, uuid, name, memory [MiB]), in the order of CUDA_VISIBLE_DEVICES if set."""
    gpus: dict[str, Resource] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            index, uuid, name, memory = cells
            gpus[index] = Resource(f"gpu:{uuid}", "gpu", {"index": index, "name": name, "memory_mib": memory})
    if visible is None:
        return tuple(gpus.values())
    chosen = []
    for entry in filter(None, map(str.strip, visible.split(","))):
        match = gpus.get(entry) or next((g for g in gpus.values() if g.id.startswith(f"gpu:{entry}")), None)
        if match is None:
            break  # as CUDA does: what follows an invalid entry is invisible
        chosen.append(match)
    return tuple(chosen)


def probe_compute(device: str = "auto") -> Resource:
    """The resource a learner uses: ``cpu``, ``cuda`` (the first visible GPU) or ``auto`` (that GPU, else the CPU).

    Raises:
        ConfigError: another device name.
        MissingDependencyError: ``cuda`` without a GPU; the message says why none was found.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device '{device}'{suggest(device, ('auto', 'cpu', 'cuda'))}")
    if device != "cpu":
        found = probe_gpus()
        if found.resources:
            return found.resources[0]
        if device == "cuda":
            raise MissingDependencyError(f"no GPU: {found.problem or 'none is visible'}; or learn with --device cpu")
    return probe_cpu().resources[0]
