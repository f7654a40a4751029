"""Environments of other projects (Gymnasium, dm_control) behind the Robot and Task protocols."""
