"""Plug-ins are found by name, in the tree and in other distributions, and nothing is imported to list them."""

import subprocess
import sys
from pathlib import Path

import pytest

from robolearn.core import plugins
from robolearn.core.errors import ConfigError, RobolearnError, suggest


def test_a_plug_in_is_loaded_by_its_file_name() -> None:
    assert "fake" in plugins.names("robot")
    module = plugins.load("robot", "fake")
    assert module.__name__ == "robolearn.hal.drivers.fake"
    assert module.build(module.Config()).spec.name == "fake"


def test_a_wrong_name_gets_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match="unknown robot 'fale'; did you mean 'fake'"):
        plugins.load("robot", "fale")
    with pytest.raises(ConfigError, match="unknown plug-in group 'robots'; did you mean 'robot'"):
        plugins.names("robots")


def test_another_distribution_joins_through_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_arm.py").write_text("class Config: pass\ndef build(config): return 'their arm'\n")
    info = tmp_path / "their_robots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-robots\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[robolearn.robot]\ntheir_arm = their_arm\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "their_arm" in plugins.names("robot")
    assert plugins.load("robot", "their_arm").build(None) == "their arm"


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from robolearn.core import plugins; [plugins.names(g) for g in plugins.GROUPS];"
        "print([m for m in ('torch', 'mujoco', 'zarr', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    ("got", "names", "hint"),
    [
        ("peg_insrt", ["peg_insert", "reach"], "; did you mean 'peg_insert'? (have: peg_insert, reach)"),
        ("zzz", ["peg_insert", "reach"], " (have: peg_insert, reach)"),
        ("a", [], " (have: none)"),
        ("policy.utb", ["policy.utd", "seed"], "; did you mean 'policy.utd'? (have: policy.utd, seed)"),
    ],
)
def test_suggestions(got: str, names: list[str], hint: str) -> None:
    assert suggest(got, iter(names)) == hint


def test_every_error_is_a_robolearn_error() -> None:
    from robolearn.core import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) > 5
    assert all(issubclass(cls, RobolearnError) for cls in classes if cls.__module__ == errors.__name__)
