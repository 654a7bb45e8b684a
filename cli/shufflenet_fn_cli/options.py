"""What the commands share: options derived from the declared settings, tables, and fast imports."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from shufflenet_fn.config.options import Declared, Option, declared
from shufflenet_fn.model.config import ARCH_NAMES
from shufflenet_fn_backends.names import DEVICE_NAMES

KNOWN: Final = MappingProxyType(
    {
        "arch": ARCH_NAMES,
        "precision": ("fp32", "bf16", "O0", "O1", "O2", "O3"),
        "loss_scale": ("auto", "dynamic", "none"),
    }
)
"""Values that shells complete, of settings that take others as well."""


def completing(values: Iterable[str]) -> Callable[[], list[str]]:
    """Return what typer calls for the values that shells complete."""
    return lambda: list(values)


def choice(flag: str, help: str, *choices: str) -> Any:
    """Return an option that takes one of ``choices``, which shells complete."""

    def check(value: str | None) -> str | None:
        Option((flag,), help, "", choices).check(value)
        return value

    text = f"{help} One of: {', '.join(choices)}."
    return typer.Option(flag, help=text, callback=check, autocompletion=completing(choices))


Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        "-a",
        help="Architecture of a bare weights file or a name.",
        autocompletion=completing(ARCH_NAMES),
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run directory (its best checkpoint), a checkpoint, a weights file, or a name: "
        "torchvision:IMAGENET1K_V1, https://…#sha256=HEX or hf://ORG/NAME/FILE.",
        show_default=False,
    ),
]
Device = Annotated[str, choice("--device", "Kind of device.", "auto", *DEVICE_NAMES)]
Split = Annotated[str, choice("--split", "Split of packed data.", "val", "train")]
Names = Annotated[
    Path | None,
    typer.Option("--names", help="A text file with a class name on each line, for weights without."),
]


def with_settings(settings: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one option per setting; it receives the explicit ones as ``**given``.

    The command's own parameters come first. An option that was not typed is ``None`` and left out of
    ``given``: the command must be able to tell "not given" from "given with the default value".
    """
    items = list(declared(settings))

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        names = {item.name for item in items}

        def wrapper(**values: Any) -> Any:
            given = {k: v for k, v in values.items() if k in names and v is not None}
            rest = {k: v for k, v in values.items() if k not in names}
            return command(**rest, **given)

        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*own, *map(_parameter, items)]
        )
        wrapper.__annotations__ = {}
        return wrapper

    return decorate


def _parameter(item: Declared) -> inspect.Parameter:
    option = item.option
    help_text = option.help
    if option.choices:
        help_text += f" One of: {', '.join(option.choices)}."
    if item.default is not None:
        shown = str(item.default).lower() if item.type is bool else item.default
        help_text += f" (default: {shown})"
    values = option.choices or KNOWN.get(item.name)
    typed = typer.Option(
        *option.flags,
        help=help_text,
        rich_help_panel=option.panel,
        show_default=False,
        autocompletion=completing(values) if values else None,
    )
    annotation = Annotated[item.type | None, typed]  # type: ignore[name-defined]  # a type at run time
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@contextmanager
def importing() -> Iterator[None]:
    """Disable the garbage collector during the body, so that imports, and the process's end, are faster.

    Importing torch creates hundreds of thousands of objects, none of them garbage. The collector would
    traverse them repeatedly during the import and once more at exit, so they are frozen. This is done only
    once per process, because later there may be garbage among the frozen objects.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
