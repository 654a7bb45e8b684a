"""Augmentation beyond crop, jitter and flip. All draws are counter-based."""
