"""An image that cannot be decoded: how it is named."""

from __future__ import annotations

from shufflenet_fn_backends.errors import UserError


class BadImage(UserError):
    """A sample that was read but is not an image that can be trained on.

    Attributes:
      name: what ``Samples.name`` calls it: a path, or a shard, its record and the original path.
      reason: what is wrong with it, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"cannot decode image {name}: {reason}. Replace or remove the file, or pass "
            "--on-bad-image skip to train without such files."
        )
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return type(self), (self.name, self.reason)
