"""Reward sources: task success, classifiers, human labels."""
