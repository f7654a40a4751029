"""A process that publishes raw images of 640x480, thirty a second, numbered in their frame id."""

from __future__ import annotations

import itertools
import os
from array import array

import rclpy
from sensor_msgs.msg import Image

from robolearn.core.clock import MonotonicClock
from robolearn.ros import context

if __name__ == "__main__":
    os.environ.update(context.with_profile(os.environ))
    with context.context() as ros:
        node = rclpy.create_node("source", namespace="/source", context=ros)
        out = node.create_publisher(Image, "image_raw", context.SENSOR)
        message = Image(height=480, width=640, encoding="rgb8", step=1920, data=array("B", os.urandom(480 * 1920)))
        clock = MonotonicClock()
        deadline_ns = clock.now_ns()
        print("ready", flush=True)  # noqa: T201
        for number in itertools.count():
            message.header.frame_id = str(number)
            out.publish(message)
            deadline_ns = max(deadline_ns + 33_333_333, clock.now_ns())
            clock.sleep_until_ns(deadline_ns)
