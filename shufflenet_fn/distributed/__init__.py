"""Data parallelism: process group, all-reduce and launcher."""
