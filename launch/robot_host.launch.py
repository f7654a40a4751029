"""A robot host and, for a simulated robot, its arm: ``ros2 launch robolearn robot_host.launch.py robot:=fr3_sim``."""

from robolearn.ros import launching as ask
from robolearn.ros import specs


def generate_launch_description():
    """Robots are told apart by their namespaces; a real arm is moved only when it is named."""
    arguments = [
        ask.Argument("robot", "fr3_sim (simulated), or a robot of the site file", "fr3_sim"),
        ask.Argument("namespace", "namespace of the robot; empty takes its own"),
        ask.Argument("robots", "how many simulated robots, in namespaces that count up", "1", number=True),
        ask.PARAMS_FILE,
        ask.USE_SIM,
        ask.USE_SIM_TIME,
        ask.TASK,
        ask.TIER,
        ask.CAMERAS,
        ask.TELEOP_DEVICE,
        ask.LOG_LEVEL,
    ]
    return ask.describe(arguments, specs.robot_host)
