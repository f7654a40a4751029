"""A simulated arm alone, for a robot host on another machine: ``ros2 launch robolearn sim_arm.launch.py``."""

from robolearn.ros import launching as ask
from robolearn.ros import specs


def generate_launch_description():
    """The arm speaks what ros2_control and Cartesian controllers of a real one speak."""
    return ask.describe([ask.NAMESPACE, ask.PARAMS_FILE, ask.TASK, ask.TIER, ask.CAMERAS, ask.LOG_LEVEL], specs.sim_arm)
