"""Checkpoints: the on-disk form of a train state, written so that a crash loses nothing."""
