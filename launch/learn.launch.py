"""Teach a policy a task: ``ros2 launch robolearn learn.launch.py task:=peg_insert robot:=ros2:/fr3_1``."""

from robolearn.ros import launching as ask
from robolearn.ros import specs


def generate_launch_description():
    """What ``robolearn train`` does; the robot host runs already (robot_host.launch.py)."""
    arguments = [
        ask.Argument("task", "task to learn; robolearn tasks lists them", "peg_insert"),
        ask.Argument("tier", "difficulty of the task; empty takes its default"),
        ask.Argument("robot", "fr3_sim (simulated, in process), or a robot host such as ros2:/fr3_1", "fr3_sim"),
        ask.Argument("robots", "how many robots; 0 takes those that are named", "0", number=True),
        ask.Argument("args", "more options of robolearn train, separated by spaces"),
    ]
    return ask.describe(arguments, specs.learn)
