"""Data parallelism: the process group, the mean over ranks, the launcher."""
