"""Damaged files for the input pipeline: how they are made, and which outcomes are allowed."""
