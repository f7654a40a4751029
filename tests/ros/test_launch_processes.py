"""The runner of ``robolearn host up``: output, ends, and that nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from robolearn.ros.processes import Group
from robolearn.ros.specs import NodeSpec

PATIENCE_S = 30.0
NODES = {
    "good": "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(0))\nprint('up', flush=True)\n"
    "while True: signal.pause()",
    "stubborn": "import signal\nfor s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n"
    "print('up', flush=True)\nwhile True: signal.pause()",
    "failing": "import sys\nprint('no arm', file=sys.stderr)\nsys.exit(7)",
    "quitting": "print('done')",
    "dying": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
}
LAUNCHER = """
import os, sys
from robolearn.ros.processes import Group
from robolearn.ros.specs import NodeSpec
specs = [NodeSpec(name, name, "/t", name, ros=False) for name in sys.argv[1:]]
Group(lambda label, line: print(label, line, flush=True), os.environ).run(specs, stopping=lambda: False)
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name, text in NODES.items():
        (tmp_path / f"{name}.py").write_text(f"import os\nopen({str(tmp_path)!r} + '/{name}.pid', 'w')"
                                             f".write(str(os.getpid()))\n{text}\n")  # fmt: skip
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def spec(name: str, *, required: bool = True) -> NodeSpec:
    return NodeSpec(name, name, "/t", name, required=required, ros=False)


def until(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    return what()


def gone(folder: Path) -> bool:
    """No process whose number was written is alive."""
    for path in folder.glob("*.pid"):
        number = path.read_text()
        status = Path(f"/proc/{number}/status")
        if number and status.exists() and "State:\tZ" not in status.read_text():
            return False
    return True


class Heard:
    """Lines with their labels, and the question whether to stop: once all of some lines were heard."""

    def __init__(self, *last: tuple[str, str]) -> None:
        self.lines: list[tuple[str, str]] = []
        self.last = set(last)
        self.give_up = time.monotonic() + PATIENCE_S

    def say(self, label: str, line: str) -> None:
        self.lines.append((label, line))

    def stopping(self) -> bool:
        return self.last <= set(self.lines) or time.monotonic() > self.give_up


def test_output_is_told_apart_and_all_end_when_asked(environ: dict[str, str], tmp_path: Path) -> None:
    heard = Heard(("/t/good", "up"))
    ticks: list[int] = []
    status = Group(heard.say, environ).run([spec("good")], stopping=heard.stopping, tick=lambda: ticks.append(1))
    assert status == 0
    assert heard.lines == [("/t/good", "up")]
    assert gone(tmp_path)


def test_who_does_not_end_is_killed_within_two_seconds(environ: dict[str, str], tmp_path: Path) -> None:
    heard = Heard(("/t/stubborn", "up"), ("/t/good", "up"))
    asked: list[float] = []

    def stopping() -> bool:
        if heard.stopping():
            asked.append(time.monotonic())
        return bool(asked)

    assert Group(heard.say, environ).run([spec("stubborn"), spec("good")], stopping=stopping) == 0
    assert time.monotonic() - asked[0] < 4.0  # two seconds on a machine that has time
    assert ("/t/stubborn", "did not end within 1.5 s; killed") in heard.lines
    assert gone(tmp_path)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("failing", 7, "has ended with status 7; ending the rest"),
        ("quitting", 1, "has ended with status 0; ending the rest"),
        ("dying", 1, "was killed by SIGKILL; ending the rest"),
    ],
)
def test_a_required_node_that_ends_ends_the_rest(
    environ: dict[str, str], tmp_path: Path, name: str, status: int, words: str
) -> None:
    heard = Heard(("", "never"))
    assert Group(heard.say, environ).run([spec("good"), spec(name)], stopping=heard.stopping) == status
    assert (f"/t/{name}", words) in heard.lines
    if name == "failing":
        assert heard.lines.index(("/t/failing", "no arm")) < heard.lines.index(("/t/failing", words))
    assert gone(tmp_path)


def test_one_that_is_not_required_may_end(environ: dict[str, str], tmp_path: Path) -> None:
    heard = Heard(("/t/quitting", "done"), ("/t/good", "up"))
    specs = [spec("quitting", required=False), spec("good")]
    assert Group(heard.say, environ).run(specs, stopping=heard.stopping) == 0
    assert gone(tmp_path)


def test_an_error_while_it_runs_leaves_nobody_behind(environ: dict[str, str], tmp_path: Path) -> None:
    def fail(label: str, line: str) -> None:
        raise OSError("the disk of the log is full")

    with pytest.raises(OSError, match="log is full"):
        Group(fail, environ).run([spec("good")], stopping=lambda: False)
    assert gone(tmp_path)


def test_killing_the_runner_ends_its_nodes(environ: dict[str, str], tmp_path: Path) -> None:
    # SIGKILL gives the runner no chance; the kernel ends its children.
    runner = subprocess.Popen([sys.executable, "-c", LAUNCHER, "good"], env=environ, stdout=subprocess.PIPE)
    try:
        assert runner.stdout is not None
        assert runner.stdout.readline().strip() == b"/t/good up"
        assert not gone(tmp_path)
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        assert until(lambda: gone(tmp_path))
    finally:
        runner.kill()
        runner.wait()
        if runner.stdout is not None:
            runner.stdout.close()
