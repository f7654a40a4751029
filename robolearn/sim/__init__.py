"""MuJoCo worlds, arms, tasks with scripted experts."""
