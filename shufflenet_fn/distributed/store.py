"""What ranks leave for each other under names."""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """What ranks leave for each other under a name. Any thread may use it."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def delete_key(self, key: str) -> bool: ...
