"""Resources, and which of them a learner takes."""

import pytest

from robolearn.core.errors import ConfigError, MissingDependencyError
from robolearn.hal import resources
from robolearn.hal.resources import Found, Resource, probe_compute, probe_cpu

GPUS = (Resource("gpu:a", "gpu", health="hot", unusable="GPU 0 is at 95 °C"), Resource("gpu:b", "gpu"))


def see(monkeypatch: pytest.MonkeyPatch, found: Found) -> None:
    monkeypatch.setattr(resources, "probe_gpus", lambda: found)


def test_a_learner_takes_the_first_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, Found(GPUS))
    assert probe_compute("auto").id == probe_compute("cuda").id == "gpu:b"
    assert probe_compute("cpu").kind == "cpu"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Found(), "none is visible"),
        (Found(problem="no driver"), "no driver"),
        (Found(GPUS[:1]), "GPU 0 is at 95 °C"),
    ],
)
def test_without_a_usable_gpu_it_takes_the_cpu_or_says_why(
    monkeypatch: pytest.MonkeyPatch, found: Found, why: str
) -> None:
    see(monkeypatch, found)
    assert probe_compute("auto").kind == "cpu"
    with pytest.raises(MissingDependencyError, match=f"no GPU: {why}; or learn with --device cpu"):
        probe_compute("cuda")


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
    with pytest.raises(ConfigError, match=r"unusable \(smoke\), so its health is not 'ok'"):
        Resource("arm", "robot", unusable="smoke")
    with pytest.raises(ConfigError, match="did you mean 'cuda'"):
        probe_compute("cuda0")
