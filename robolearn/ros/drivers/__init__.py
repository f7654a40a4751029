"""Robot drivers that speak ROS 2, one file each."""
