"""How what an actor puts out becomes an action."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Reach(Protocol):
    """How the actor's output o (B, A) in (-1, 1) becomes an action, given what a base proposes (B, N, A)."""

    @property
    def proposals(self) -> str:
        """Observation key of the proposals; empty when there are none."""

    @property
    def init_log_std(self) -> float | None:
        """Where the actor's log standard deviation starts, with a greedy output of 0; None: an untouched network."""

    def action(self, output: Tensor, proposals: Tensor) -> Tensor:
        """a(o), (B, A)."""

    def gradient(self, d_action: Tensor, output: Tensor, proposals: Tensor) -> Tensor:
        """Gradient (B, A) by the output from that by the action."""

    def output(self, action: Tensor, proposals: Tensor) -> Tensor:
        """The output (B, A) whose action comes nearest to the given one."""


class FullReach:
    """The output is the action."""

    proposals = ""
    init_log_std: float | None = None

    def action(self, output: Tensor, proposals: Tensor) -> Tensor:
        """The output."""
        return output

    def gradient(self, d_action: Tensor, output: Tensor, proposals: Tensor) -> Tensor:
        """The same gradient."""
        return d_action

    def output(self, action: Tensor, proposals: Tensor) -> Tensor:
        """The action."""
        return action


FULL_REACH = FullReach()
