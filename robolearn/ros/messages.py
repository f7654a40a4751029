"""Labelled numbers as std_msgs/Float64MultiArray; the layout names the fields, so that an echo explains itself."""

from __future__ import annotations

import array
from typing import Any

import numpy as np

from robolearn.core.errors import SpecError
from robolearn.core.spec import Array
from robolearn.hal.host.wire import Fields, split

LARGEST = 4096
"""Bytes of the longest message that ``from_bytes`` reads; unpacking a long one would hold up a control loop."""


def to_message(fields: Fields) -> Any:
    """A Float64MultiArray with one dimension a field, whose label names it and whose stride is 1."""
    from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

    dimensions = [MultiArrayDimension(label=label, size=len(values), stride=1) for label, values in fields]
    data = array.array("d", np.concatenate([values for _, values in fields]).tobytes())
    return Float64MultiArray(layout=MultiArrayLayout(dim=dimensions, data_offset=0), data=data)


def from_bytes(data: bytes) -> dict[str, Array]:
    """Inverse of ``to_message`` from a message's bytes; raises SpecError when they are too many or make no sense."""
    from rclpy.serialization import deserialize_message
    from std_msgs.msg import Float64MultiArray

    if len(data) > LARGEST:
        raise SpecError(f"message: {len(data)} bytes, at most {LARGEST} are read")
    try:
        message = deserialize_message(data, Float64MultiArray)
    except Exception as error:  # whatever the middleware raises about bytes that are no message
        raise SpecError(f"message: {len(data)} bytes that are no Float64MultiArray") from error
    return from_message(message)


def from_message(message: Any) -> dict[str, Array]:
    """Inverse of ``to_message``; raises SpecError when layout and data do not fit each other."""
    labels = [(dimension.label, int(dimension.size)) for dimension in message.layout.dim]
    if not labels:
        raise SpecError("message: it names no fields (layout.dim is empty)")
    return split(labels, np.asarray(message.data, dtype=np.float64))
