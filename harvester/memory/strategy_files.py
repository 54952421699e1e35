"""Users' strategy files: find the class, its source and the modules it imports; keep copies below `memory/strategies/`.

    found = load("path/to/mine.py:Mine", {"lookback": 30})      # or package.module:Mine
    found.ref                                                   # name, digest, settings: what a run's start event holds
    keep_copy(found, home, disk)                                # memory/strategies/<digest>/

The digest covers the file, every module it imports that is neither installed nor in the standard library (line ends
normalised), the name of the class, and the canonical parameters. Modules are executed fresh for every fold, under
private names; a module of the user never replaces an installed one.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import itertools
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harvester.errors import BadSetting, CodeChanged
from harvester.events.kinds import Action, Kind
from harvester.files import Disk, json_value
from harvester.projections.run_params import RunParams, StrategyRef
from harvester.projections.trading.failure import first_failures
from harvester.projections.trading.strategies import STRATEGIES, Library, describe
from harvester.projections.trading.user_decider import UserDecider
from harvester.projections.trading.user_strategy import Strategy, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.eventlog.reader import Day
    from harvester.home import Home
    from harvester.projections.trading.failure import Failure
    from harvester.projections.trading.run_terms import RunTerms
    from harvester.projections.trading.strategy import Decider

MANIFEST = "strategy.json"
_PRIVATE = "_hv_strategy"
_numbers = itertools.count()
_INSTALLED = tuple(
    Path(path).resolve() for name, path in sysconfig.get_paths().items() if name in ("purelib", "platlib", "stdlib")
)


class Sources(NamedTuple):
    """Python sources of a strategy.

    Attributes:
        entry: dotted name of the module with the class.
        name: of the class.
        modules: (dotted name, source, whether it is a package), sorted by name.
    """

    entry: str
    name: str
    modules: tuple[tuple[str, bytes, bool], ...]

    def digest(self, settings: Mapping[str, Any]) -> str:
        """16 hex digits over sources, class and canonical parameters."""
        total = hashlib.blake2b(digest_size=8)
        for name, source, package in self.modules:
            total.update(f"{name}\0{int(package)}\0{len(source)}\0".encode() + source)
        settings_text = msgspec.json.encode(dict(sorted(settings.items())), order="deterministic")
        total.update(f"{self.entry}:{self.name}\0".encode() + settings_text)
        return total.hexdigest()


class LoadedStrategy(NamedTuple):
    """A strategy to fold with; `sources` is None for a shipped one."""

    ref: StrategyRef
    sources: Sources | None


class CopyManifest(msgspec.Struct, frozen=True):
    """`strategy.json` beside a copy: entry module, class, settings; `modules`: (dotted name, is a package).

    `strategy`: its name; empty in copies of early builds.
    """

    entry: str
    name: str
    settings: dict[str, Any]
    modules: tuple[tuple[str, bool], ...]
    strategy: str = ""


# ---- from the command line -----------------------------------------------------------------------------------------


def load(wanted: str, settings: Mapping[str, Any] | None = None) -> LoadedStrategy:
    """A strategy by `path/to/file.py:Class`, `package.module:Class` or the name of a shipped one.

    Raises:
        BadSetting: no such file, class or parameter, or the module cannot be imported.
    """
    if ":" not in wanted:
        if wanted.endswith(".py"):
            raise BadSetting(f"--strategy {wanted}: name the class too: {wanted}:CLASS")
        return LoadedStrategy(StrategyRef(**describe(wanted, settings)), None)
    where, _, name = wanted.rpartition(":")
    if not name.isidentifier():
        raise BadSetting(f"--strategy {wanted}: {name!r} is not a class name; use path/to/file.py:CLASS")
    sources = _sources(wanted, where, name)
    kind = class_of(sources)
    called = name_of(kind)
    if called in STRATEGIES:
        raise BadSetting(f"strategy {called} of {where} has the name of a shipped one; set another: name = {'...'!r}")
    values = kind(settings or {}).parameters
    return LoadedStrategy(StrategyRef(called, sources.digest(values), values), sources)


def load_all(
    wanted: Sequence[str], settings: Mapping[str, Mapping[str, Any]], values: Sequence[str]
) -> list[LoadedStrategy]:
    """Several strategies with their settings: `settings` by name, then `--set` values, which win.

    Raises:
        BadSetting: as `load`; a name twice; a value that belongs to no strategy.
    """
    found: dict[str, LoadedStrategy] = {}
    plain = [_called(one) for one in wanted]
    given = {name: dict(settings.get(name, {})) for name in plain}
    for text in values:
        name, key, value = _assigned(text, plain)
        given[name][key] = value
    for one, name in zip(wanted, plain, strict=True):
        if name in found:
            raise BadSetting(f"strategy {name} is given twice; give one of them another name")
        found[name] = load(one, given[name])
    return list(found.values())


def _called(wanted: str) -> str:
    """The name of a strategy, before its parameters are known."""
    if ":" not in wanted or not wanted.rpartition(":")[2].isidentifier():
        return wanted
    where, _, name = wanted.rpartition(":")
    return name_of(class_of(_sources(wanted, where, name)))


def _assigned(text: str, names: Sequence[str]) -> tuple[str, str, Any]:
    """`lookback=30` or `mine.lookback=30` as (strategy, parameter, value)."""
    key, equals, value = text.partition("=")
    name, dot, parameter = key.strip().rpartition(".")
    if not equals or not parameter:
        raise BadSetting(f"--set {text!r} is not NAME=VALUE")
    if not dot and len(names) != 1:
        raise BadSetting(f"--set {text}: name the strategy too, for example {names[0] if names else 'mine'}.{text}")
    name = name if dot else names[0]
    if name not in names:
        raise BadSetting(f"--set {text}: no strategy {name!r} is given (given: {', '.join(names)})")
    return name, parameter, _literal(value.strip())


def _literal(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# ---- sources -------------------------------------------------------------------------------------------------------


def _sources(wanted: str, where: str, name: str) -> Sources:
    if where.endswith(".py") or "/" in where or "\\" in where:
        path = Path(where).expanduser().resolve()
        if not path.is_file():
            raise BadSetting(f"--strategy {wanted}: there is no file {path}")
        if not path.stem.isidentifier():
            raise BadSetting(f"--strategy {wanted}: the file name {path.name!r} is not a module name; rename it")
        root, entry = path.parent, path.stem
    else:
        roots = [Path(part or ".").resolve() for part in sys.path]
        found = next((root for root in [Path.cwd(), *roots] if _module(root, where)), None)
        if found is None:
            raise BadSetting(f"--strategy {wanted}: no module {where} in the working folder or on the Python path")
        root, entry = found, where
    return Sources(entry, name, tuple(sorted(_closure(root, entry))))


def _closure(root: Path, entry: str) -> Iterable[tuple[str, bytes, bool]]:
    """The module and what it imports, directly or not, that is found beside it or on the path and is not installed."""
    roots = [root, *(Path(part or ".").resolve() for part in sys.path)]
    waiting, seen = [entry], {entry}
    while waiting:
        name = waiting.pop()
        path = next((path for one in roots if (path := _module(one, name)) and not _installed(path)), None)
        if path is None:
            continue
        source, package = path.read_bytes().replace(b"\r\n", b"\n"), path.name == "__init__.py"
        yield name, source, package
        parents = [name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)]
        for other in [*parents, *_imports(source, name, path, package=package)]:
            top = other.split(".")[0]
            if other not in seen and top not in sys.stdlib_module_names and top not in ("harvester", "cli"):
                seen.add(other)
                waiting.append(other)


def _module(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_name(base.name + ".py")):
        if path.is_file():
            return path
    return None


def _installed(path: Path) -> bool:
    parts = path.resolve().parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return any(path.resolve().is_relative_to(folder) for folder in _INSTALLED)


def _imports(source: bytes, name: str, path: Path, *, package: bool) -> list[str]:
    try:
        tree = ast.parse(source, path.name)
    except (SyntaxError, ValueError) as error:
        raise BadSetting(f"{path} is not valid Python: {error}") from None
    here = name if package else name.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = here.split(".")[: len(here.split(".")) - node.level + 1] if here else []
                base = ".".join([*up, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]
    return [one for one in found if one]


# ---- importing -----------------------------------------------------------------------------------------------------


def class_of(sources: Sources, prints: str = "") -> type[Strategy]:
    """The class, its modules executed fresh under private names.

    What they print goes to stderr, each time after `prints`; without such a label nowhere: a command's output is its
    own.

    Raises:
        BadSetting: a module raises an error, or the class is not a `harvester.Strategy`.
    """
    try:
        module = _Importer(sources, prints).module(sources.entry)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        raise BadSetting(f"strategy module {sources.entry} cannot be imported: {why}") from error
    kind = getattr(module, sources.name, None)
    if not isinstance(kind, type) or not issubclass(kind, Strategy):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Strategy)]
        known = ", ".join(n for n in classes if n != "Strategy") or "none"
        raise BadSetting(
            f"strategy module {sources.entry} has no class {sources.name} derived from harvester.Strategy "
            f"(classes: {known})"
        )
    return kind


class _Importer:
    """Imports modules of one strategy from their sources; everything else as usual."""

    def __init__(self, sources: Sources, prints: str = "") -> None:
        self._of = {name: (source, package) for name, source, package in sources.modules}
        self._prefix = f"{_PRIVATE}_{next(_numbers)}"
        self._made: dict[str, ModuleType] = {}
        self._label = prints
        self._builtins = vars(builtins) | {"__import__": self._import, "print": self._print}

    def _print(self, *values: Any, **options: Any) -> None:
        if self._label:
            options["file"] = options.get("file") or sys.stderr
            builtins.print(f"{self._label}:", *values, **options)  # noqa: T201 - the user's own

    def module(self, name: str) -> ModuleType:
        """A module by its dotted name, executed at the first call."""
        if name in self._made:
            return self._made[name]
        parent, _, last = name.rpartition(".")
        if parent and parent in self._of:
            self.module(parent)
        source, package = self._of[name]
        made = self._made[name] = ModuleType(f"{self._prefix}.{name}")
        made.__dict__["__builtins__"] = self._builtins
        made.__dict__["__hv_name__"] = (name, package)
        made.__file__ = f"<strategy {name}>"
        sys.modules[made.__name__] = made  # dataclasses and type hints look a class's module up there
        exec(compile(source, made.__file__, "exec", dont_inherit=True), made.__dict__)  # noqa: S102 - it is the strategy
        if parent in self._made:
            setattr(self._made[parent], last, made)
        return made

    def _import(
        self, name: str, of: Any = None, local: Any = None, wanted: Sequence[str] | None = (), level: int = 0
    ) -> Any:
        full = self._absolute(name, of, level) if level else name
        if full not in self._of:
            if level:
                raise ImportError(f"no module {full or '.' * level + name} beside the strategy")
            return builtins.__import__(name, of, local, wanted or (), 0)
        made = self.module(full)
        if not wanted:
            return made if level else self.module(full.split(".")[0]) if full.split(".")[0] in self._of else made
        for one in wanted:
            if f"{full}.{one}" in self._of:
                self.module(f"{full}.{one}")
        return made

    @staticmethod
    def _absolute(name: str, of: Any, level: int) -> str:
        own, package = of["__hv_name__"]
        here = own.split(".") if package else own.split(".")[:-1]
        here = here[: len(here) - level + 1]
        return ".".join([*here, *([name] if name else [])])


# ---- copies --------------------------------------------------------------------------------------------------------


def keep_copy(found: LoadedStrategy, home: Home, disk: Disk | None = None) -> Path | None:
    """Write the sources to `memory/strategies/<digest>/`; returns the folder, None for a shipped strategy."""
    if found.sources is None:
        return None
    disk, folder = disk or Disk(), home.strategies / found.ref.digest
    disk.make_folders(folder)
    for name, source, _ in found.sources.modules:
        disk.write_atomic(folder / f"{name}.py", source)
    modules = tuple((name, package) for name, _, package in found.sources.modules)
    sources, settings = found.sources, dict(found.ref.settings)
    manifest = CopyManifest(sources.entry, sources.name, settings, modules, found.ref.name)
    disk.write_atomic(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return folder


def read_copy(home: Home, digest: str) -> tuple[Sources, dict[str, Any]] | None:
    """The sources of a kept strategy and its settings; None when there are none, or not those of the digest."""
    if not (len(digest) == 16 and set(digest) <= set("0123456789abcdef")):
        return None
    folder = home.strategies / digest
    try:
        manifest = json_value((folder / MANIFEST).read_bytes(), CopyManifest)
        modules = tuple(
            (name, (folder / f"{name}.py").read_bytes(), package)
            for name, package in manifest.modules
            if all(part.isidentifier() for part in name.split("."))
        )
    except (OSError, msgspec.MsgspecError):
        return None
    sources = Sources(manifest.entry, manifest.name, modules)
    return (sources, manifest.settings) if sources.digest(manifest.settings) == digest else None


class KeptStrategies(Library):
    """Shipped strategies, and users' from their copies below a home."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self._home = home

    def waits_for_notice(self, name: str) -> bool:
        return name not in STRATEGIES

    def make_user(self, name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Decider, str]:
        failure = self.failures.get((name, recorded))
        if failure is not None and not failure.seq:
            return self.decider(_Silent(), recorded, failure, name), recorded
        kept = read_copy(self._home, recorded)
        if kept is None:
            raise CodeChanged(
                f"strategy {name} ({recorded}) has no intact copy in {self._home.strategies / recorded}: restore it, "
                "or fold with its file: hv project --strategy FILE:CLASS"
            )
        sources, _ = kept
        return self.decider(class_of(sources)(settings), recorded, failure), recorded

    def decider(
        self, strategy: Strategy, digest: str, recorded: Failure | None, name: str | None = None
    ) -> UserDecider:
        """What calls the strategy."""
        return UserDecider(strategy, digest, recorded, name)


class _Silent(Strategy):
    """In the place of a strategy that failed before its first second: its code is not run again."""


class GivenStrategies(Library):
    """These strategies fold every run, whatever it recorded."""

    def __init__(self, found: Sequence[LoadedStrategy]) -> None:
        super().__init__()
        self._found = {one.ref.name: one for one in found}

    def chosen(self, terms: RunTerms) -> RunTerms:
        refs = tuple((one.ref.name, one.ref.digest, dict(one.ref.settings)) for one in self._found.values())
        return msgspec.structs.replace(terms, strategies=refs)

    def make_user(self, name: str, recorded: str, settings: Mapping[str, Any]) -> tuple[Decider, str]:
        sources = self._found[name].sources
        assert sources is not None, f"{name} is a shipped strategy"
        return UserDecider(class_of(sources, name)(settings), recorded), recorded


class ShippedAlone(Library):
    """Shipped strategies; users' are left out of the fold."""

    def chosen(self, terms: RunTerms) -> RunTerms:
        kept = tuple(ref for ref in terms.strategies if ref[0] in STRATEGIES)
        return msgspec.structs.replace(terms, strategies=kept)


class IntactStrategies(KeptStrategies):
    """Shipped strategies, and users' that have an intact copy; others are left out of the fold, with a note."""

    def __init__(self, home: Home, day: Day) -> None:
        super().__init__(home)
        self.failures = recorded_failures(day)

    def chosen(self, terms: RunTerms) -> RunTerms:
        lost = [name for name, digest, _ in terms.strategies if name not in STRATEGIES and not self._has(name, digest)]
        for name in lost:
            self.note(f"strategy {name} has no intact copy and is left out; hv project --strategy FILE:CLASS folds it")
        return msgspec.structs.replace(terms, strategies=tuple(ref for ref in terms.strategies if ref[0] not in lost))

    def _has(self, name: str, digest: str) -> bool:
        failure = self.failures.get((name, digest))
        return (failure is not None and not failure.seq) or read_copy(self._home, digest) is not None


def recorded_failures(day: Day) -> dict[tuple[str, str], Failure]:
    """The failures of users' strategies that the log reports, by name and digest."""
    rows = day.table(Kind.REQUEST).to_pylist()
    starts = [row for row in rows if row["action"] == Action.RUN_START.value]
    refs = [ref for row in starts for ref in RunParams.parse(row["params"], row["seq"]).strategies]
    if all(ref.name in STRATEGIES for ref in refs):
        return {}
    return first_failures(day.table(Kind.NOTICE).to_pylist())


# ---- lists ---------------------------------------------------------------------------------------------------------


def shipped() -> list[dict[str, Any]]:
    """The shipped strategies with their digests and default settings."""
    return [describe(name) | {"source": "shipped"} for name in STRATEGIES]


def kept(home: Home) -> list[dict[str, Any]]:
    """The copies below `memory/strategies/`, by digest; a damaged one says so. No code of theirs is run."""
    rows = []
    for folder in sorted(path for path in home.strategies.glob("*") if path.is_dir()):
        found = read_copy(home, folder.name)
        if found is None:
            rows.append({"name": "?", "digest": folder.name, "settings": {}, "source": f"damaged copy: {folder}"})
        else:
            sources, settings = found
            where = f"copy of {sources.entry}:{sources.name}"
            name = json_value((folder / MANIFEST).read_bytes(), CopyManifest).strategy or sources.name
            rows.append({"name": name, "digest": folder.name, "settings": settings, "source": where})
    return rows
