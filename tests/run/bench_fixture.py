"""Makes the driver ``bench`` known, in this process and in those it starts."""

import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Put the driver into a package directory with an entry point; return the folder of its files."""
    packages, home = folder / "packages", folder / "home"
    info = packages / "bench_robots-0.1.dist-info"
    info.mkdir(parents=True)
    home.mkdir()
    shutil.copy(HERE / "bench_robots.py", packages / "bench_robots.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-robots\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[robolearn.robot]\nbench = bench_robots\n")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("BENCH_HOME", str(home))
    monkeypatch.setenv("ROBOLEARN_STATE", str(folder / "state"))
    monkeypatch.setenv("ROBOLEARN_SITE", "")
    monkeypatch.syspath_prepend(str(packages))
    return home
