"""Resources and the probes for compute."""

from pathlib import Path

import pytest

from robolearn.core.errors import ConfigError, MissingDependencyError
from robolearn.hal import resources
from robolearn.hal.resources import Resource, parse_smi, probe_compute, probe_cpu, probe_gpus

SMI = "0, GPU-aaaa-1, NVIDIA A, 81559\n1, GPU-bbbb-2, NVIDIA B, 24576\n"


def fake_smi(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = directory / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_listed_as_cuda_sees_them() -> None:
    ids = {
        None: ["gpu:GPU-aaaa-1", "gpu:GPU-bbbb-2"],
        "1,0": ["gpu:GPU-bbbb-2", "gpu:GPU-aaaa-1"],
        "GPU-bbbb": ["gpu:GPU-bbbb-2"],
        "": [],
        "-1": [],
        "0,7,1": ["gpu:GPU-aaaa-1"],
    }
    for visible, expected in ids.items():
        assert [gpu.id for gpu in parse_smi(SMI, visible)] == expected
    assert parse_smi(SMI, None)[0].labels == {"index": "0", "name": "NVIDIA A", "memory_mib": "81559"}


def test_a_gpu_is_taken_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, f"printf '{SMI}'", monkeypatch)
    assert probe_compute("auto").id == probe_compute("cuda").id == "gpu:GPU-aaaa-1"
    assert probe_compute("cpu").kind == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probe_compute("auto").kind == "cpu"
    with pytest.raises(MissingDependencyError, match=r"none is visible.*--device cpu"):
        probe_compute("cuda")


def test_without_a_driver_the_probe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nvidia-smi is not installed" in probe_gpus().problem
    assert probe_compute("auto").kind == "cpu"
    with pytest.raises(MissingDependencyError, match="nvidia-smi is not installed"):
        probe_compute("cuda")
    fake_smi(tmp_path, "echo 'no devices were found'; exit 6", monkeypatch)
    assert "no devices were found" in probe_gpus().problem
    monkeypatch.setattr(resources, "_SMI_TIMEOUT_S", 0.05)
    fake_smi(tmp_path, "exec sleep 5", monkeypatch)
    assert "did not answer" in probe_gpus().problem


def test_the_cpu_has_cores() -> None:
    (cpu,) = probe_cpu().resources
    assert cpu.kind == "cpu"
    assert cpu.capacity >= 1
    assert not cpu.exclusive


def test_impossible_resources_and_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs an id"):
        Resource("", "robot")
    with pytest.raises(ConfigError, match="capacity"):
        Resource("gpu:0", "gpu", capacity=0.0)
    with pytest.raises(ConfigError, match="exclusive"):
        Resource("arm", "robot", capacity=2.0)
    with pytest.raises(ConfigError, match="did you mean 'cuda'"):
        probe_compute("cuda0")
