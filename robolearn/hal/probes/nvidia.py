"""NVIDIA GPUs, through NVML (the nvidia-ml-py package and the library that comes with the driver).

NVML counts all GPUs of the machine in PCI order; CUDA shows a process those that ``CUDA_VISIBLE_DEVICES`` leaves, by
index, by the beginning of a uuid, or as slices of a GPU (``MIG-...``).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from robolearn.hal.resources import HEALTHY, Found, Resource

_MIB = 2**20
_LEAST_FREE = 0.05
"""A GPU with a smaller part of its memory free is full."""


def probe(nvml: Any = None, environment: Mapping[str, str] | None = None) -> Found:
    """The GPUs a CUDA program of this process would see, in its order.

    Args:
        nvml: module ``pynvml``; imported when not given.
        environment: where ``CUDA_VISIBLE_DEVICES`` is looked up; the process's own when not given.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return Found(problem="nvidia-ml-py is not installed, so no NVIDIA GPU is known; pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Found(problem=f"no NVIDIA GPU can be asked ({error}); with a GPU, install the NVIDIA driver")
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = [_gpu(nvml, handle, index) for index, handle in enumerate(handles)]
        visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
        return Found(tuple(gpus if visible is None else _visible(nvml, gpus, visible)))
    except nvml.NVMLError as error:
        return Found(problem=f"NVML failed: {error}; nvidia-smi may tell more")
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any, index: int) -> Resource:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    labels = {
        "index": str(index),
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_mib": str(memory.total // _MIB),
        "used_mib": str(memory.used // _MIB),
    }
    temperature = _ask(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    if temperature is not None:
        labels["temperature_c"] = str(temperature)
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    health, why = _health(nvml, handle, memory, temperature)
    return Resource(f"gpu:{uuid}", "gpu", labels, health=health, unusable=f"GPU {index} {why}" if why else "")


def _health(nvml: Any, handle: Any, memory: Any, temperature: int | None) -> tuple[str, str]:
    """One word, and why the GPU cannot be used."""
    wrong = _ask(
        nvml,
        lambda: nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
    )
    if wrong:
        return "ecc", f"has {wrong} memory errors that ECC cannot correct; reset it or restart the machine"
    limit = _ask(nvml, lambda: nvml.nvmlDeviceGetTemperatureThreshold(handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN))
    if temperature is not None and limit and temperature >= limit:
        return "hot", f"is at {temperature} °C and slows down at {limit} °C; cool it"
    if memory.used > (1.0 - _LEAST_FREE) * memory.total:
        return "full", f"has {memory.used // _MIB} of {memory.total // _MIB} MiB in use; nvidia-smi shows by whom"
    return HEALTHY, ""


def _visible(nvml: Any, gpus: list[Resource], visible: str) -> list[Resource]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order; as in CUDA, what follows an invalid entry is invisible."""
    by_index = {gpu.labels["index"]: gpu for gpu in gpus}
    chosen = []
    for entry in filter(None, map(str.strip, visible.split(","))):
        match = by_index.get(entry) or next((gpu for gpu in gpus if gpu.id.startswith(f"gpu:{entry}")), None)
        if match is None and entry.startswith("MIG-"):
            match = _ask(nvml, lambda uuid=entry: _slice(nvml, uuid))  # type: ignore[misc]
        if match is None:
            break
        chosen.append(match)
    return chosen


def _slice(nvml: Any, uuid: str) -> Resource:
    memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid))
    return Resource(f"gpu:{uuid}", "gpu", {"name": "MIG slice", "memory_mib": str(memory.total // _MIB)})


def _ask(nvml: Any, question: Callable[[], Any]) -> Any:
    """An answer that not every GPU gives, or None."""
    try:
        return question()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    """Older versions answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
