"""Kills of runs at random moments, and the checks after each kill."""
