"""Node specs as processes, without the launch tool: started, their output told apart, ended together."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from robolearn.ros.specs import NodeSpec, command, environment

_PATIENCE_S, _LAST_WORDS_S, _TICK_S = 1.5, 0.3, 0.05
_PR_SET_PDEATHSIG = 1
_CHUNK = 65536


@dataclass
class _Member:
    spec: NodeSpec
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    rest: bytes = b""


@dataclass
class Group:
    """Processes that live and die together.

    Use it from one thread, the main one: the kernel ends the members when the thread that started them dies.

    Attributes:
        say: gets each line of output, with the label of its node.
    """

    say: Callable[[str, str], None]
    environ: Mapping[str, str]
    _members: list[_Member] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(
        self, specs: Sequence[NodeSpec], *, stopping: Callable[[], bool], tick: Callable[[], None] = lambda: None
    ) -> int:
        """Start processes and wait; at the end none is left.

        Args:
            stopping: asked all the time; True ends the group.
            tick: called about 20 times a second.

        Returns:
            0 when asked to stop; otherwise the exit status of the required process that ended first, 1 if that is 0
            (a node that is required does not end by itself) or the process was killed by a signal.
        """
        try:
            for spec in specs:
                self._start(spec)
            while not stopping():
                self._listen(_TICK_S)
                if (ended := self._ended()) is not None:
                    return ended
                tick()
            return 0
        finally:
            self._end()

    def _start(self, spec: NodeSpec) -> None:
        parent = os.getpid()
        libc = ctypes.CDLL(None, use_errno=True)

        def tied() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        # A session of its own: Ctrl-C in the terminal reaches only us, and we end the members in order.
        process = subprocess.Popen(
            command(spec),
            env=environment(spec, self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tied,
        )
        output = process.stdout
        if output is None:
            raise OSError("no pipe for the output of a process")
        os.set_blocking(output.fileno(), False)
        member = _Member(spec, process, output)
        self._members.append(member)
        self._selector.register(output, selectors.EVENT_READ, member)

    def _listen(self, timeout_s: float) -> None:
        """Pass on what the members print."""
        if not self._selector.get_map():
            time.sleep(timeout_s)
        for key, _ in self._selector.select(timeout_s):
            member: _Member = key.data
            data = member.output.read(_CHUNK)
            if data is None:
                continue
            *lines, member.rest = (member.rest + data).split(b"\n")
            if not data:
                self._selector.unregister(member.output)
                lines, member.rest = [*lines, *filter(None, [member.rest])], b""
            for line in lines:
                self.say(member.spec.label, line.decode(errors="replace"))

    def _ended(self) -> int | None:
        for member in self._members:
            code = member.process.poll()
            if code is not None and member.spec.required:
                self._drain()
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with status {code}"
                self.say(member.spec.label, f"{how}; ending the rest")
                return max(code, 1) if code >= 0 else 1
        return None

    def _end(self) -> None:
        """SIGINT to all, and SIGKILL to those who do not end, whatever happens meanwhile."""
        try:
            for member in self._running():
                member.process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + _PATIENCE_S
            while time.monotonic() < deadline and self._running():
                self._listen(_TICK_S)
            for member in self._running():
                self.say(member.spec.label, f"did not end within {_PATIENCE_S:g} s; killed")
        finally:
            for member in self._running():
                os.killpg(member.process.pid, signal.SIGKILL)
            for member in self._members:
                member.process.wait()
        self._drain()
        for member in self._members:
            member.output.close()
        self._members.clear()
        self._selector.close()

    def _running(self) -> list[_Member]:
        return [member for member in self._members if member.process.poll() is None]

    def _drain(self) -> None:
        """Last words; whoever still holds a pipe open does not keep us."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while self._selector.get_map() and time.monotonic() < deadline:
            self._listen(_TICK_S)
            if not self._running() and not self._selector.select(0):
                return
