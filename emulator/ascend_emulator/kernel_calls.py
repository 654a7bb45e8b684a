"""A call of a CANN operator with its arguments, as the emulator records it."""

from __future__ import annotations

import re
from math import prod
from typing import Final, NamedTuple

_OPERAND: Final = re.compile(r"(\d+)([rwup]) (\w+) ([\d,]*) ([cv])")
_NUMBERS: Final = re.compile(r"(\d+)=(-?[\d,-]*)")
_SIZES: Final = {
    "Double": 8,
    "Long": 8,
    "ComplexFloat": 8,
    "Float": 4,
    "Int": 4,
    "UInt32": 4,
    "Half": 2,
    "BFloat16": 2,
    "Short": 2,
    "UInt16": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}


class Operand(NamedTuple):
    """A tensor argument.

    ``use``: r for read, w for written, u for both, p for partly read. ``dtype``: torch's C++ name.
    """

    position: int
    use: str
    dtype: str
    shape: tuple[int, ...]
    contiguous: bool

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return _SIZES.get(self.dtype, 4)

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


class Call(NamedTuple):
    """A call of an operator. Arguments are numbered from 0. Omitted tensors are absent."""

    name: str
    operands: tuple[Operand, ...]
    numbers: dict[int, tuple[int, ...]]

    def tensor(self, position: int) -> Operand | None:
        """Return the tensor at ``position``, or ``None`` if it was omitted."""
        return next((one for one in self.operands if one.position == position), None)

    def tensors(self, position: int) -> list[Operand]:
        """Return the members of the list at ``position``."""
        return [one for one in self.operands if one.position == position]

    @property
    def read(self) -> list[Operand]:
        return [one for one in self.operands if one.use in "rup"]

    @property
    def written(self) -> list[Operand]:
        return [one for one in self.operands if one.use in "wu"]


def parse_call(name: str, signature: str) -> Call:
    """Parse a ``signature`` that ``sources/aclnn/operator.cpp`` writes."""
    operands = tuple(
        Operand(int(position), use, dtype, _ints(shape), layout == "c")
        for position, use, dtype, shape, layout in _OPERAND.findall(signature)
    )
    numbers = {
        int(position): _ints(values)
        for part in signature.split(";")
        for position, values in _NUMBERS.findall(part)
        if _NUMBERS.fullmatch(part)
    }
    return Call(name, operands, numbers)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)
