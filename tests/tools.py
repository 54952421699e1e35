"""Load a module of tools/, which is not a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent


def tool(name: str) -> Any:
    """The module `tools/<name>.py`."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", PROJECT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
