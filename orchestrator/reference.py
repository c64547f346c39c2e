"""docs/reference.md: every key of a sweep file, made from the classes of the settings themselves.

`python -m orchestrator.reference` prints it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aiqn_core.command import Command
from aiqn_core.config import NAMED, PLAIN, ModelConfig
from aiqn_core.settings import described, fields, hint_of, plain
from orchestrator.sections import OwnSections

HEAD = """# Every key of a sweep file

Made by `python -m orchestrator.reference > docs/reference.md` from the classes that check the file; a test keeps it so.
A key whose default is "left out" may be missing. Sections of a training (`data` to `evaluate`) stand at the top of the
file, for all arms, or in an arm; keys of `space` are their dotted paths, such as `optimizer.lr`.
"""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, *_trainings(), *_own(OwnSections, "")]).rstrip() + "\n"


def _trainings() -> Iterator[str]:
    for section, kind in NAMED.items():
        yield f"## {section}\n\n{_first_line(kind)}\n"
        if section == "data":
            yield f"Bundled: {', '.join(kind.ours())}; every other name is of data that `aiqn data prepare` wrote.\n"
            yield from _table(next(iter(kind.ours().values())).settings)
            continue
        for name, found in kind.ours().items():
            yield f"### {section}: {name}\n\n{_first_line(found.settings)}\n"
            yield from _table(found.settings)
    yield "## loss\n\nOf the methods that are trained by a quantile loss.\n"
    for name, found in ModelConfig.ours().items():
        if found.thing.loss is not None:
            yield f"### loss of {name}\n"
            yield from _table(found.thing.loss)
    yield f"## An arm that is a command\n\n{_first_line(Command)} See `docs/own-methods.md`.\n"
    own = fields(Command)
    yield from _rows([("command", own["line"]), ("values", own["values"]), ("files", own["files"])])
    for section, plain_kind in PLAIN.items():
        yield f"## {section}\n\n{_first_line(plain_kind)}\n"
        yield from _table(plain_kind)


def _own(kind: type[BaseModel], path: str) -> Iterator[str]:
    """The sections of the file itself, each with those inside it after it."""
    for name, field in fields(kind).items():
        inner = _model(hint_of(field))
        if inner is not None:
            where = f"{path}.{name}" if path else name
            yield f"## {where}\n\n{_first_line(inner)}\n"
            yield from _table(inner)
            yield from _own(inner, where)


def _table(kind: type[BaseModel]) -> Iterator[str]:
    rows = [(name, field) for name, field in fields(kind).items() if _model(hint_of(field)) is None]
    if not rows:
        yield "No keys.\n" if not fields(kind) else ""
        return
    yield from _rows(rows)


def _rows(rows: Sequence[tuple[str, FieldInfo]]) -> Iterator[str]:
    yield "| key | what | default | |\n|---|---|---|---|"
    for name, field in rows:
        what = described(hint_of(field)) or "see the text"
        default = "must be given" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        text = " ".join((field.description or "").split())
        yield " | ".join(("| `" + name + "`", *(cell.replace("|", "\\|") for cell in (what, default, text)))) + " |"
    yield ""


def _shown(value: Any) -> str:
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, BaseModel):
        return "see below"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _model(hint: Any) -> type[BaseModel] | None:
    """The class of a section, also where it may be left out, or stand in a list."""
    hint = plain(hint)
    for one in (hint, *map(plain, get_args(hint))):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]


if __name__ == "__main__":
    print(reference(), end="")
