"""How many files a run may have open."""

from __future__ import annotations

import resource

WANTED = 16384
"""Enough for the shards of ImageNet's pixels, twice, with room for everything else."""


def allow_open_files() -> None:
    """Raise this process's soft limit of open files to WANTED, as far as its hard limit lets it.

    Packed data keeps a share of the limit open as shards; the usual 1,024 are fewer than a large set has.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
