"""Resources: things that can be leased. ``hal/probes`` finds them, one file for each way of finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from robolearn.core.errors import ConfigError, MissingDependencyError, suggest

SHARED_KINDS = frozenset({"gpu", "cpu"})
"""Kinds that are leased in fractions; of anything else there is one holder at a time."""

HEALTHY = "ok"


@dataclass(frozen=True)
class Resource:
    """Something that can be leased.

    Attributes:
        id: unique on this host, for example ``ros2:/fr3_left`` or ``gpu:GPU-1f2e``.
        kind: ``robot``, ``gpu``, ``cpu``, ``camera``, ``teleop``, ``serial``, ...
        labels: what a request may ask for, for example ``{"site": "labA"}``.
        capacity: how much there is to share (GPUs: 1; CPUs: cores); exclusive resources have 1.
        simulated: nothing can be hurt: a lease whose holder is dead may be cleared without a person.
        health: one word, ``ok`` or for example ``hot``, ``busy``, ``no-access``, ``absent``.
        unusable: why nobody can use it now, and what mends it; empty when it can be leased.
        seen_epoch: highest lease epoch its driver has seen, perhaps of another machine's table; leases begin above.
    """

    id: str
    kind: str
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: float = 1.0
    simulated: bool = False
    health: str = HEALTHY
    unusable: str = ""
    seen_epoch: int = 0

    def __post_init__(self) -> None:
        if not self.id or not self.kind:
            raise ConfigError(f"a resource needs an id and a kind, got id '{self.id}', kind '{self.kind}'")
        if not 0 < self.capacity < float("inf"):
            raise ConfigError(f"resource {self.id}: capacity must be finite and above 0, got {self.capacity}")
        if self.exclusive and self.capacity != 1.0:
            raise ConfigError(f"resource {self.id}: a {self.kind} is exclusive, so capacity is 1, got {self.capacity}")
        if self.unusable and self.health == HEALTHY:
            raise ConfigError(f"resource {self.id}: it is unusable ({self.unusable}), so its health is not '{HEALTHY}'")

    @property
    def exclusive(self) -> bool:
        """True when there is one holder at a time."""
        return self.kind not in SHARED_KINDS


@dataclass(frozen=True)
class Found:
    """What a probe found, and why it could not look (everywhere); ``problem`` is empty when nothing is amiss."""

    resources: tuple[Resource, ...] = ()
    problem: str = ""


def probe_cpu() -> Found:
    """The cores this process may use."""
    from robolearn.hal.probes import cpu

    return cpu.probe()


def probe_gpus() -> Found:
    """NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves."""
    from robolearn.hal.probes import nvidia

    return nvidia.probe()


def probe_compute(device: str = "auto") -> Resource:
    """The resource a learner uses: ``cpu``, ``cuda`` (the first usable GPU) or ``auto`` (that GPU, else the CPU).

    Raises:
        ConfigError: another device name.
        MissingDependencyError: ``cuda`` without a GPU; the message says why none was found.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device '{device}'{suggest(device, ('auto', 'cpu', 'cuda'))}")
    if device != "cpu":
        found = probe_gpus()
        usable = [gpu for gpu in found.resources if not gpu.unusable]
        if usable:
            return usable[0]
        if device == "cuda":
            why = "; ".join(gpu.unusable for gpu in found.resources) or found.problem or "none is visible"
            raise MissingDependencyError(f"no GPU: {why}; or learn with --device cpu")
    return probe_cpu().resources[0]
