"""Weights from learner to actors: codec, publish, follow, links."""
