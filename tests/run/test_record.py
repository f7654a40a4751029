from dataclasses import replace
from itertools import count
from pathlib import Path

from robolearn.buffer.verify import verify
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.inventory import inventory
from robolearn.run.record import record_demonstrations


def test_a_recording_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    config, calls = replace(complete(TrainConfig(tier="smoke")), video=False), count()
    record_demonstrations(config, tmp_path, episodes=1, script="script", going_on=lambda: next(calls) < 5)
    stopped = inventory(tmp_path)
    assert (stopped["episodes"], stopped["demo_steps"]) == (1, 0)
    assert 0 < stopped["steps"] <= 5
    result = record_demonstrations(config, tmp_path, episodes=1, script="script")
    assert result["successes"] == 1
    assert inventory(tmp_path)["demo_steps"] > 5
    assert verify(tmp_path).ok
