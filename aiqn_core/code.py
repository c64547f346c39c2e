"""Somebody's own code: a file or a package folder, imported once, and the classes in it that fit a role.

Nothing outside it can be named: a name reaches only classes that are defined in the code itself. Only what loads or
runs a sweep imports it; a file that cannot be imported is one ConfigError. No torch of our own.
"""

import ast
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from aiqn_core.metric import Metric
from aiqn_core.settings import ConfigError, Problem, nearest, one_line

LARGEST = 2**24  # bytes of all files of somebody's code
FILES = 500
IGNORED = ("__pycache__",)
FOLDER = "code"  # of a run folder
VARIABLE = "AIQN_CODE"
OURS = ("aiqn_core", "orchestrator", "reports")  # our packages: all that a sweep needs beside its own files
RECORDED = ("aiqn_core", "torch", "numpy", "pydantic")  # modules whose packages every trial records anyway


@dataclass(frozen=True)
class Code:
    """Imported code, and the SHA-256 over its files (twelve digits) that names it in every trial."""

    name: str  # of the module, as names begin: "flow" in "flow.RealNVP"
    digest: str
    module: ModuleType
    path: Path  # where it was imported from

    def __reduce__(self) -> tuple[Any, ...]:
        return load_code, (self.path,)  # modules cannot be sent to other processes

    def recorded(self) -> dict[str, str]:
        """What a trial's configuration holds of it."""
        return {"name": self.name, "hash": self.digest}

    def classes(self) -> dict[str, type]:
        """The classes that are defined in the code, by the names that a sweep file gives them."""
        own = (self.name, f"{self.name}.")
        return {
            f"{self.name}.{key}": value
            for key, value in vars(self.module).items()
            if isinstance(value, type) and (value.__module__ == own[0] or value.__module__.startswith(own[1]))
        }

    def fitting(self, role: str) -> dict[str, type]:
        """Those of them that fit a role: "model", "optimizer", "schedule", "data", "metric" or "features"."""
        return {name: kind for name, kind in self.classes().items() if not lacking(role, kind)}


_loaded: dict[str, Code] = {}  # by digest: one process may train trials of several codes


def loaded(digest: object) -> Code | None:
    """The code of a digest, where this process has imported it."""
    return _loaded.get(str(digest))


def load_code(path: Path) -> Code:
    """Import a file or a package folder; raises ConfigError at the path "code" where that cannot be done.

    The same files are imported once, wherever they lie.
    """
    name = path.stem if path.suffix == ".py" else path.name
    found = code_digest(path)
    if found in _loaded:
        if _loaded[found].path != path.resolve():  # where it lay before may be edited since
            _loaded[found] = replace(_loaded[found], path=path.resolve())
        return _loaded[found]
    if not name.isidentifier():
        raise _wrong(
            f"saw {path.name!r}, expected letters, digits and _, the first a letter: it is imported by its name"
        )
    if name not in _own_names() and _is_taken(name, path):
        raise _wrong(f"saw {path.name!r}, but there is a Python module {name} already; rename it")
    code = Code(name, found, _imported(name, path), path.resolve())
    _loaded[found] = code
    os.environ[VARIABLE] = str(code.path)  # for the processes that this one starts
    return code


def inherited(digest: object) -> Code | None:
    """The code of a digest, imported here or by the process that started this one."""
    named = os.environ.get(VARIABLE)
    if loaded(digest) is None and named and Path(named).exists() and code_digest(Path(named)) == digest:
        load_code(Path(named))
    return loaded(digest)


def keep(code: Code, run: Path) -> Path:
    """Copy the files of imported code into a run folder, under their hash; returns where they lie.

    Versions are kept beside each other: a trial that ran with the one before can still be sampled from. Raises
    ConfigError where the files were edited since they were imported.
    """
    folder = run / FOLDER / code.digest
    kept = folder / code.path.name
    if kept.exists():
        return kept
    files = [(relative, file.read_bytes()) for relative, file in code_files(code.path)]
    if code_digest(code.path) != code.digest:
        raise _wrong(f"saw {str(code.path)!r}, which was edited while the sweep was loaded; start it again")
    keep_files(folder, files)
    return kept


def keep_files(folder: Path, files: list[tuple[str, bytes]]) -> None:
    """Write files, each with its place in it, as a folder that is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for relative, content in files:
        (temporary / relative).parent.mkdir(parents=True, exist_ok=True)
        (temporary / relative).write_bytes(content)
    with suppress(OSError):  # another process was quicker, with the same files
        temporary.rename(folder)
    shutil.rmtree(temporary, ignore_errors=True)


def load_kept(run: Path, recorded: object) -> None:
    """Import the code that a trial's configuration names from the run folder of the trial; nothing where it has none.

    Raises ConfigError where the files there are missing, or not those that the configuration names by their hash.
    """
    if not isinstance(recorded, dict) or loaded(recorded.get("hash")) is not None:
        return
    kept, digest = kept_path(run, recorded), recorded.get("hash")
    if (seen := code_digest(kept)) != digest:
        raise _wrong(f"saw {str(kept)!r} with hash {seen}, expected {digest}: what lies there is not what ran before")
    load_code(kept)


def kept_path(run: Path, recorded: dict[str, Any]) -> Path:
    """Where a run folder keeps the code that a configuration names; raises ConfigError where there is none."""
    name, digest = str(recorded.get("name")), str(recorded.get("hash"))
    folder = run / FOLDER / digest
    if not name.isidentifier() or not digest.isalnum():
        raise _wrong(f"saw {name!r} with hash {digest!r}, expected the name of a module and its hash")
    found = next((path for path in (folder / f"{name}.py", folder / name) if path.exists()), None)
    if found is None:
        raise _wrong(f"{folder} is missing: it holds the code {name} that this trial runs; put it back")
    return found


def code_digest(path: Path) -> str:
    """Twelve hexadecimal digits of the SHA-256 over the files of somebody's code; raises ConfigError without any."""
    return files_digest([(relative, file.read_bytes()) for relative, file in code_files(path)])


def files_digest(files: list[tuple[str, bytes]]) -> str:
    """The same of files that were read, each with its place."""
    digest = hashlib.sha256()
    for relative, content in files:
        digest.update(f"{relative}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def code_files(path: Path) -> list[tuple[str, Path]]:
    """The Python files of somebody's code, each with its place relative to the folder of `path`; raises ConfigError."""
    if path.is_file() and path.suffix == ".py":
        return [(path.name, path)]
    if not path.exists():
        raise _wrong(f"saw {str(path)!r}, no such file; expected a Python file, or a folder with __init__.py")
    if not (path / "__init__.py").is_file():
        raise _wrong(f"saw {str(path)!r}, expected a file that ends in .py, or a folder with __init__.py")
    files = [
        (file.relative_to(path.parent).as_posix(), file)
        for file in sorted(path.rglob("*.py"))
        if not set(IGNORED) & set(file.parts)
    ]
    if len(files) > FILES or sum(file.stat().st_size for _, file in files) > LARGEST:
        raise _wrong(f"saw {len(files)} files in {str(path)!r}, expected at most {FILES}, of {LARGEST} bytes together")
    return files


def imported_packages(path: Path) -> list[str]:
    """The installed distributions that somebody's code imports by name: they decide its numbers too."""
    names: set[str] = set()
    for _, file in code_files(path):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    names -= {*sys.stdlib_module_names, *RECORDED}
    found = metadata.packages_distributions() if names else {}  # a look at all packages takes a moment
    return sorted({distribution for name in names for distribution in found.get(name, ())})


def lacking(role: str, kind: type) -> str:
    """What keeps a class from fitting a role, in words; "" where nothing does."""

    def missing(*names: str) -> list[str]:
        return [name for name in names if not hasattr(kind, name)]

    settings = getattr(kind, "Settings", None)
    is_settings = isinstance(settings, type) and issubclass(settings, BaseModel)
    lacks = [] if is_settings else ["Settings (a pydantic BaseModel)"]
    match role:
        case "model":
            facts = getattr(kind, "metrics", ())
            lacks += missing("noise", "loss", "sample")
            if not isinstance(facts, tuple) or not all(isinstance(fact, Metric) for fact in facts):
                lacks.append("metrics (a tuple of aiqn_core.metric.Metric)")
        case "optimizer":
            lacks += missing("step", "zero_grad", "state_dict")
            if is_settings and "lr" not in settings.model_fields:  # type: ignore[union-attr]
                lacks.append("lr among its Settings")
        case "schedule":
            lacks = [] if issubclass(kind, BaseModel) else ["pydantic's BaseModel as its base"]
            lacks += missing("factor")
        case "data":
            lacks += missing("load")
            if getattr(kind, "data", None) not in ("images", "vectors"):
                lacks.append('data = "images" or "vectors"')
        case "metric":
            lacks = [] if isinstance(getattr(kind, "metric", None), Metric) else ["metric (an aiqn_core.metric.Metric)"]
            lacks += [] if "__call__" in dir(kind) and kind.__call__ is not type.__call__ else ["__call__"]
        case "features":
            lacks = [] if isinstance(getattr(kind, "name", None), str) else ["name (a word)"]
            lacks += missing("describe")
    return ", ".join(lacks)


def unknown(name: object, role: str, ours: list[str], code: Code | None) -> str:
    """The message for a name that reaches nothing of a role."""
    classes = {} if code is None else code.classes()
    if code is not None and isinstance(name, str) and name in classes:
        return f"saw {name!r}, a class without {lacking(role, classes[name])}; expected what fits a {role}"
    if code is None and isinstance(name, str) and "." in name:
        return f"saw {name!r}, but there is no code to find it in; add code: {name.partition('.')[0]}.py above the arms"
    valid = [*ours, *([] if code is None else code.fitting(role))]
    return f"saw {name!r}; {nearest(name, valid)}"


def _own_names() -> set[str]:
    return {code.name for code in _loaded.values()}


def _is_taken(name: str, path: Path) -> bool:
    """Whether another module has this name: not a file of one's own that lies where Python was started."""
    found = importlib.util.find_spec(name)
    if found is None:
        return False
    places = [
        *(found.submodule_search_locations or ()),
        *([found.origin] if found.has_location and found.origin else []),
    ]
    own = {Path.cwd().resolve(), path.resolve().parent}
    return name in OURS or not any(Path(place).resolve().parent in own for place in places)


def _imported(name: str, path: Path) -> ModuleType:
    """The module of the files, under its plain name so that it can import its own parts."""
    for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]  # of another version
    file = path if path.suffix == ".py" else path / "__init__.py"
    places = None if path.suffix == ".py" else [str(path)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _without_bytecode():
            spec.loader.exec_module(module)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # whatever somebody's code raises is one line
        del sys.modules[name]
        raise _wrong(f"saw {str(path)!r}, which cannot be imported: {_where(error, path)}") from error
    return module


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Neither written beside somebody's files, nor read: an edit within a second would go unseen."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _where(error: BaseException, path: Path) -> str:
    """An exception in one line, with the line of the code that it came from."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    line, trace = None, error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file == path or path in file.parents:
            line = trace.tb_lineno
        trace = trace.tb_next
    told = one_line(error)
    return f"line {line}: {told}" if line else told


def _wrong(message: str) -> ConfigError:
    return ConfigError([Problem("code", message)])


def own_instance(name: str, code: Code | None) -> Any:
    """An object of a class without settings: a metric, or an extractor of features."""
    assert code is not None  # the configuration was checked
    return code.classes()[name]()
