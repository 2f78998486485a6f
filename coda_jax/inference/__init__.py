"""Checkpoints at work: what they reach at which speed, and their answers."""
