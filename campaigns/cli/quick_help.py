"""Help without the parts of Rich that it never draws with: they take a third of its time to load."""

from __future__ import annotations

import sys
from types import ModuleType

UNUSED = (("rich.markdown", "Markdown"), ("rich.traceback", "Traceback"))
"""Modules that Typer's help imports, the class of each: for help in Markdown and for decorated tracebacks."""


def load_help() -> None:
    """Load Typer's formatter of help texts without :data:`UNUSED`, which may be imported as usual afterwards."""
    if "typer.rich_utils" in sys.modules:
        return
    placeholders = {name: _placeholder(name, unused) for name, unused in UNUSED if name not in sys.modules}
    sys.modules.update(placeholders)
    try:
        import typer.rich_utils  # noqa: F401
    finally:
        for name in placeholders:
            del sys.modules[name]


def _placeholder(name: str, unused: str) -> ModuleType:
    module = ModuleType(name)
    setattr(module, unused, type(unused, (), {}))
    return module
