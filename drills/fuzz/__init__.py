"""Damaged files for the input pipeline: how they are made, and what may come of them."""
