"""Probes of what ROS 2 shows, one file each."""
