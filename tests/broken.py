"""Break a rule of the package on purpose for the time of a test, which must notice it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_PLAIN = (bool, int, float, str, tuple, frozenset, dict)


@contextmanager
def broken(name: str, rule: str, mistake: str) -> Iterator[None]:
    """Replace `rule` by `mistake` in a module's source: its functions and constants become those of the changed source.

    Functions and classes keep their identity, so that names imported from the module are changed too.
    """
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert rule in source, f"{name} no longer contains {rule!r}: choose another mistake"
    changed = ModuleType(name)
    changed.__dict__["__file__"] = module.__file__
    exec(compile(source.replace(rule, mistake), str(module.__file__), "exec"), changed.__dict__)
    theirs = dict(_functions(changed))
    codes = [(function, function.__code__, theirs[at].__code__) for at, function in _functions(module) if at in theirs]
    values = {
        at: (value, changed.__dict__[at])
        for at, value in vars(module).items()
        if isinstance(value, _PLAIN) and not at.startswith("__") and changed.__dict__.get(at, value) != value
    }
    caches = [value.cache_clear for value in vars(module).values() if hasattr(value, "cache_clear")]
    try:
        for forget in caches:
            forget()
        for function, _, code in codes:
            function.__code__ = code
        for at, (_, value) in values.items():
            setattr(module, at, value)
        yield
    finally:
        for function, code, _ in codes:
            function.__code__ = code
        for at, (value, _) in values.items():
            setattr(module, at, value)
        for forget in caches:
            forget()


def _functions(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    """Every function and method defined in a module, by qualified name."""
    for at, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for place, found in [(at, value), *_members(at, value)]:
            plain = inspect.unwrap(found) if callable(found) else found
            if isinstance(plain, FunctionType) and plain.__module__ == module.__name__:
                yield place, plain


def _members(at: str, value: Any) -> list[tuple[str, Any]]:
    if not inspect.isclass(value):
        return []
    plain = {n: v.fget if isinstance(v, property) else getattr(v, "__func__", v) for n, v in vars(value).items()}
    return [(f"{at}.{name}", member) for name, member in plain.items()]
