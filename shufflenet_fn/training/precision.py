"""Mixed precision as a value: which dtype parameters are kept in, computed in and returned in.

The idea and the string grammar are jmp's (github.com/google-deepmind/jmp); the names O0 to O3 are apex's
(github.com/NVIDIA/apex, ``apex.amp`` before its removal in 2025), with their meaning kept and the
package not needed:

======  =========  =======  ==========  ======  ===========================================
name    params     convs    batch norm  output  loss scale by default
======  =========  =======  ==========  ======  ===========================================
O0      float32    float32  float32     float32 none
O1      float32    autocast autocast    float32 dynamic for float16
O2      float32    float16  float32     float32 dynamic (original: 64)
O3      float16    float16  float16     float32 dynamic for float16
bf16    float32    bfloat16 float32     float32 none
======  =========  =======  ==========  ======  ===========================================

Where the casts stand: weights and images are cast on the way into the network and the logits on the way
out, inside the differentiated function, so gradients arrive in the parameters' dtype. They are averaged
over ranks in that dtype: float32 for O0, O1, O2 and bf16.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.support.errors import UsageError

_DTYPES: Final = MappingProxyType(
    {
        "f32": torch.float32,
        "float32": torch.float32,
        "f16": torch.float16,
        "float16": torch.float16,
        "bf16": torch.bfloat16,
        "bfloat16": torch.bfloat16,
        "f64": torch.float64,
        "float64": torch.float64,
    }
)


@dataclass(frozen=True)
class Policy:
    """dtypes of a computation.

    Args:
        param_dtype: of the stored (master) parameters and so of gradients and optimizer state.
        compute_dtype: of convolutions and the classifier.
        output_dtype: of the logits.
        norm_dtype: of batch-norm parameters during computation. float32 beside half activations is
            what apex calls ``keep_batchnorm_fp32``.
        use_autocast: leave the choice per operation to ``torch.autocast`` with ``compute_dtype`` and cast
            nothing here (O1).
    """

    param_dtype: torch.dtype = torch.float32
    compute_dtype: torch.dtype = torch.float32
    output_dtype: torch.dtype = torch.float32
    norm_dtype: torch.dtype = torch.float32
    use_autocast: bool = False

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """All dtypes that a device has to compute in."""
        return (self.param_dtype, self.compute_dtype, self.output_dtype, self.norm_dtype)

    def cast_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """Parameters as the network computes with them."""
        return params if self.use_autocast else self._cast(params, self.compute_dtype)

    def cast_input(self, x: Tensor) -> Tensor:
        return x if self.use_autocast else x.to(self.compute_dtype)

    def cast_output(self, logits: Tensor) -> Tensor:
        return logits.to(self.output_dtype)

    def autocast(self, device_type: str) -> AbstractContextManager[Any]:
        """The context that the forward pass runs in."""
        if not self.use_autocast:
            return nullcontext()
        return torch.autocast(device_type, dtype=self.compute_dtype)

    def _cast(self, params: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        return {
            key: self._cast(value, self.norm_dtype if key == "bn" else dtype)
            if isinstance(value, dict)
            else value.to(dtype)
            for key, value in params.items()
        }


_NAMED: Final = MappingProxyType(
    {
        "O0": Policy(),
        "O1": Policy(compute_dtype=torch.float16, use_autocast=True),
        "O2": Policy(compute_dtype=torch.float16),
        "O3": Policy(torch.float16, torch.float16, torch.float32, torch.float16),
        "fp32": Policy(),
        "bf16": Policy(compute_dtype=torch.bfloat16),
    }
)


def get_policy(name: str) -> Policy:
    """The policy called ``name`` or written out in jmp's grammar.

    >>> get_policy("p=f32,c=bf16,o=f32") == get_policy("bf16")
    True

    The keys are ``p`` (params), ``c`` (compute), ``o`` (output) and ``n`` (norm, float32 if not given).

    Raises:
        UsageError: neither; the message lists what is allowed.
    """
    if name in _NAMED:
        return _NAMED[name]
    if "=" in name:
        return _parse(name)
    raise UsageError(
        f"unknown precision {name!r}{suggestion(name, _NAMED)}. Valid: {', '.join(_NAMED)}, "
        "or written out like 'p=f32,c=bf16,o=f32' with f32, f16, bf16 or f64."
    )


def _parse(text: str) -> Policy:
    fields = {"p": "param_dtype", "c": "compute_dtype", "o": "output_dtype", "n": "norm_dtype"}
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, _, dtype = (piece.strip() for piece in part.partition("="))
        short = {"params": "p", "compute": "c", "output": "o", "norm": "n"}.get(key, key)
        if short not in fields or dtype not in _DTYPES:
            raise UsageError(
                f"cannot read {part.strip()!r} in precision {text!r}. Write key=dtype pairs with keys "
                f"p, c, o, n and dtypes {', '.join(_DTYPES)}, for example 'p=f32,c=bf16,o=f32'."
            )
        values[fields[short]] = _DTYPES[dtype]
    if values.get("compute_dtype") == torch.float64:
        # No kernel takes float32 parameters beside float64 activations.
        values.setdefault("norm_dtype", torch.float64)
    return Policy(**values)
