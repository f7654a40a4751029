"""rclpy node shells around run and hal; the only place that imports rclpy."""
