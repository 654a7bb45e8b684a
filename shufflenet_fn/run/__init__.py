"""A run: its settings, its directory, its loop, its report."""
