"""Killing runs at any moment, and what must be so afterwards."""
