"""What an actor measures of its policy, and what it leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robolearn.run.actor import Actor


def bare(**parts: Any) -> Actor:
    """An actor of these parts alone."""
    actor = object.__new__(Actor)
    actor.__dict__.update(parts)
    return actor


def test_what_a_policy_notes_counts_as_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("robolearn.run.actor.time.perf_counter", lambda: now[0])

    class Slow:
        reset = load = None  # of the protocol, not called

        def annotate(self, observation: Any) -> dict[str, Any]:
            now[0] += float(observation["takes"])
            return {"base_action": np.ones(1)}

        def act(self, observation: Any, *, explore: bool) -> Any:
            now[0] += 1.0
            return np.zeros(1)

    actor = bare(policy=Slow(), policy_s=[], annotate_s=0.0)
    for takes in (3.0, 0.5):
        assert actor._annotate({"takes": np.array(takes)})["base_action"] == 1.0
        actor._act({}, {})
    assert actor.policy_s == [4.0, 1.5]


def test_everything_is_closed_the_robot_first_even_when_it_fails() -> None:
    closed: list[str] = []

    def robot() -> None:
        closed.append("robot")
        raise OSError("gone")

    def closing(name: str) -> Any:
        return SimpleNamespace(close=lambda: closed.append(name))

    actor = bare(
        process=SimpleNamespace(stopping=lambda: True),
        station=SimpleNamespace(robot=SimpleNamespace(close=robot)),
        writer=closing("writer"),
        policy=closing("policy"),
    )
    with pytest.raises(OSError, match="gone"):
        actor.run()
    assert closed == ["robot", "writer", "policy"]
