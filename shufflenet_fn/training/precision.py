"""Mixed precision policies: the dtypes in which parameters are stored, computed with and returned.

The idea and the string grammar are from jmp (github.com/google-deepmind/jmp). The names O0 to O3 are from
apex (github.com/NVIDIA/apex, ``apex.amp`` before its removal in 2025) and keep their meaning; apex itself is
not needed:

======  =========  =======  ==========  ======  ===========================================
name    params     convs    batch norm  output  loss scale by default
======  =========  =======  ==========  ======  ===========================================
O0      float32    float32  float32     float32 none
O1      float32    autocast autocast    float32 dynamic for float16
O2      float32    float16  float32     float32 dynamic (original: 64)
O3      float16    float16  float16     float32 dynamic for float16
bf16    float32    bfloat16 float32     float32 none
======  =========  =======  ==========  ======  ===========================================

Weights and images are cast when they enter the network, and logits when they leave it. The casts are inside
the differentiated function, so gradients have the dtype of the parameters. They are averaged over ranks in
that dtype: float32 for O0, O1, O2 and bf16.
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
    """The dtypes of a computation.

    Args:
        param_dtype: dtype of the stored (master) parameters, and so of gradients and optimizer state.
        compute_dtype: dtype of convolutions and the classifier.
        output_dtype: dtype of the logits.
        norm_dtype: dtype of batch-norm parameters during computation. float32 with half-precision
            activations is ``keep_batchnorm_fp32`` in apex.
        use_autocast: cast nothing here; ``torch.autocast`` with ``compute_dtype`` chooses the dtype of each
            operation (O1).
    """

    param_dtype: torch.dtype = torch.float32
    compute_dtype: torch.dtype = torch.float32
    output_dtype: torch.dtype = torch.float32
    norm_dtype: torch.dtype = torch.float32
    use_autocast: bool = False

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """All dtypes that the device must support."""
        return (self.param_dtype, self.compute_dtype, self.output_dtype, self.norm_dtype)

    def cast_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters in the dtypes that the network computes in."""
        return params if self.use_autocast else self._cast(params, self.compute_dtype)

    def cast_input(self, x: Tensor) -> Tensor:
        return x if self.use_autocast else x.to(self.compute_dtype)

    def cast_output(self, logits: Tensor) -> Tensor:
        return logits.to(self.output_dtype)

    def autocast(self, device_type: str) -> AbstractContextManager[Any]:
        """Return the context manager for the forward pass."""
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
    """Return the policy called ``name``, or parse one in jmp's grammar.

    >>> get_policy("p=f32,c=bf16,o=f32") == get_policy("bf16")
    True

    The keys are ``p`` (params), ``c`` (compute), ``o`` (output) and ``n`` (norm, float32 if not given).

    Raises:
        UsageError: ``name`` is neither; the message lists what is allowed.
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
        # No kernel accepts float32 parameters with float64 activations.
        values.setdefault("norm_dtype", torch.float64)
    return Policy(**values)
