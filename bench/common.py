"""What every bench writes: a table on the terminal and ``bench/results/NAME.json`` with machine and command."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine(packages: Sequence[str] = ("numpy", "torch", "mujoco")) -> dict[str, Any]:
    """Processor, cores and versions."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": versions,
    }


def write(name: str, data: Mapping[str, Any], packages: Sequence[str] = ("numpy", "torch", "mujoco")) -> Path:
    """Write ``bench/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    script = Path(sys.argv[0]).name
    command = " ".join(["python", f"bench/{script}", *sys.argv[1:]])
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"command": command, "machine": machine(packages), **data}, indent=1) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A plain text table."""
    cells = [[str(column) for column in columns]]
    cells += [[f"{v:.3g}" if isinstance(v := row.get(c, ""), float) else str(v) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
