import subprocess
import sys
from pathlib import Path

from robolearn.run.counters import Counters, Field, Row

CHILD = """
import sys
from pathlib import Path
from robolearn.run.counters import Counters, Field, Row
Counters(Path(sys.argv[1])).set(Row.ACTORS + 1, Field.STEPS, 41)
"""


def test_another_process_sees_what_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "counters.bin"
    counters = Counters(path)
    counters.set(Row.ACTORS, Field.STEPS, 1)
    subprocess.run([sys.executable, "-c", CHILD, str(path)], check=True)
    assert counters.get(Row.ACTORS + 1, Field.STEPS) == 41
    assert counters.actor_steps() == 42
    counters.set(Row.ACTORS, Field.ROBOT_MS, 1500)
    assert counters.robot_seconds() == 1.5
    counters.reset()
    assert counters.actor_steps() == 0
