"""A kill at any moment of an export or import leaves nothing half done, and doing it again completes it."""

import dataclasses
import importlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_rows import IMAGES, contents, episode, records, same, uuid_of

from robolearn.buffer.index import Relabel
from robolearn.buffer.interchange import export_lerobot, import_diffusion_policy, import_lerobot, import_robomimic
from robolearn.buffer.relabel import relabel
from robolearn.buffer.seal import seal
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import MissingDependencyError, StoreError
from robolearn.core.types import Transition

EPISODES = 24
CHILD = """
import sys
from pathlib import Path
from robolearn.buffer.interchange import export_lerobot, import_lerobot
import pyarrow.parquet, PIL.Image
source, target = map(Path, sys.argv[2:])
print("ready", flush=True)
export_lerobot(source, target, fps=10) if sys.argv[1] == "export" else import_lerobot(source, target)
"""


def _rows(number: int) -> list[Transition]:
    rows = episode(number, 20, schema=IMAGES, humans=[3])
    rows[0] = dataclasses.replace(rows[0], proposed=rows[0].proposed + 0, executed=rows[0].executed + 0)
    return rows


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kill") / "source"
    with Writer(root, IMAGES, name="w", robot="arm", task="peg") as w:
        for number in range(EPISODES):
            for t in _rows(number):
                w.append(t)
            w.end_episode(True)
    return root


def _killed(verb: str, source: Path, target: Path, after_s: float) -> bool:
    """Start it, and kill it some time after it began; False if it was done before."""
    command = [sys.executable, "-c", CHILD, verb, str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(after_s)
        finally:
            child.kill()
    assert child.returncode in (0, -signal.SIGKILL), f"{verb} failed by itself"
    return child.returncode != 0


def _export_and_import_under_fire(source: Path, tmp_path: Path, kills: int) -> None:
    """Kill as many of each before they are done."""
    out, back, rng = tmp_path / "out", tmp_path / "back", np.random.default_rng(0)
    killed, latest_s = 0, 0.6
    while killed < kills:
        cut = _killed("export", source, out, rng.uniform(0, latest_s))
        killed, latest_s = killed + cut, latest_s if cut else 0.8 * latest_s
        assert cut or out.exists()
        if out.exists():
            assert import_lerobot(out, tmp_path / "check").episodes == EPISODES
            shutil.rmtree(out)
            shutil.rmtree(tmp_path / "check")
    export_lerobot(source, out, fps=10)
    assert not (tmp_path / "out.tmp").exists()
    killed, latest_s = 0, 0.6
    while killed < kills:
        cut = _killed("import", out, back, rng.uniform(0, latest_s))
        killed, latest_s = killed + cut, latest_s if cut else 0.8 * latest_s
        if (back / "schema.json").exists():
            assert all(r.state == "complete" for r in records(back))
            found = contents(back)
            assert all(same(found[uuid_of(n)], _rows(n)) for n in range(EPISODES) if uuid_of(n) in found)
            if len(found) == EPISODES:
                shutil.rmtree(back)  # else there is nothing left to do for the next
        assert cut or not back.exists(), "an import that was not killed is complete"
    import_lerobot(out, back)
    found = contents(back)
    assert len(records(back)) == EPISODES
    assert all(same(found[uuid_of(n)], _rows(n)) for n in range(EPISODES))
    assert verify(back).ok


def test_a_few_kills(source: Path, tmp_path: Path) -> None:
    _export_and_import_under_fire(source, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_kills(source: Path, tmp_path: Path) -> None:
    _export_and_import_under_fire(source, tmp_path, 50)


def test_corrected_rewards_are_exported(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "edited"
    shutil.copytree(source, root)
    relabel(root, [Relabel(uuid_of(2), "reward", 5, np.array([7.0, 8.0]))])
    export_lerobot(root, tmp_path / "out", fps=10)
    import_lerobot(tmp_path / "out", tmp_path / "back")
    rewards = [t.reward for t in contents(tmp_path / "back")[uuid_of(2)]]
    expected = [t.reward for t in _rows(2)]
    expected[5:7] = [7.0, 8.0]
    assert rewards == expected


@pytest.mark.parametrize(
    ("library", "verb"),
    [
        ("pyarrow", lambda source, target: export_lerobot(source, target, fps=10)),
        ("pyarrow", import_lerobot),
        ("h5py", import_robomimic),
    ],
)
def test_a_missing_library_is_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, verb: Callable[[Path, Path], object]
) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name == library:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingDependencyError, match=rf"needs {library}: pip install 'robolearn\[interchange\]'$"):
        verb(source, tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot export to"):
        export_lerobot(source, tmp_path / "file/out", fps=10)
    with pytest.raises(StoreError, match="no such file"):
        import_diffusion_policy(tmp_path / "file/out", tmp_path / "back")


def test_two_imports_at_once_do_not_mix(source: Path, tmp_path: Path) -> None:
    export_lerobot(source, tmp_path / "out", fps=10)
    with (
        Writer(tmp_path / "back", IMAGES, name="imported", robot="x", task="y"),
        pytest.raises(StoreError, match=r"'imported'.*held by another writer"),
    ):
        import_lerobot(tmp_path / "out", tmp_path / "back")


def test_sealed_episodes_are_exported(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "sealed"
    shutil.copytree(source, root)
    assert seal(root, everything=True)
    assert all(r.segment for r in records(root))
    export_lerobot(root, tmp_path / "out", fps=10)
    import_lerobot(tmp_path / "out", tmp_path / "back")
    found = contents(tmp_path / "back")
    assert all(same(found[uuid_of(n)], _rows(n)) for n in range(EPISODES))
