"""The robot host's core: what runs beside an arm at 100 to 500 Hz, without ROS or torch."""
