"""Move a robot by hand through its running host: ``ros2 launch robolearn teleop.launch.py namespace:=/fr3_1``."""

from robolearn.ros import launching as ask
from robolearn.ros import specs


def generate_launch_description():
    """The device publishes ``joy`` (sensor_msgs/Joy) or ``twist`` (geometry_msgs/TwistStamped) in the namespace."""
    device = ask.Argument("device", "kind of topic that moves the robot", "joy", specs.TELEOP[1:])
    return ask.describe([ask.NAMESPACE, device, ask.PARAMS_FILE, ask.LOG_LEVEL], specs.teleoperation)
