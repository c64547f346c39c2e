"""Tables as files: CSV and Parquet with full precision, Markdown and LaTeX as people read them."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.runs import write_bytes
from reports.latex import to_latex
from reports.tables import Table


def write_table(table: Table, folder: Path) -> None:
    """Write `<name>.csv` and `.parquet` with full precision, `<name>.md` and `<name>.tex` as people read them."""
    for suffix, text in (("csv", to_csv(table)), ("md", to_markdown(table)), ("tex", to_latex(table))):
        write_bytes(folder / f"{table.name}.{suffix}", text.encode(), sync=False)
    write_bytes(folder / f"{table.name}.parquet", to_parquet(table), sync=False)


def _cells(table: Table, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    """The text of each cell, escaped, and bold where the table says so."""
    return [
        [
            bold(escape(str(cell))) if (row, column) in table.strong else escape(str(cell))
            for column, cell in zip(table.shown.columns, cells, strict=True)
        ]
        for row, cells in enumerate(table.shown.to_numpy().tolist())
    ]


def to_csv(table: Table) -> str:
    """Comma-separated values, full precision, missing values empty; the header also where there are no rows.

    Text that a spreadsheet would run as a formula begins with an apostrophe, which spreadsheets take for "text".
    """
    return csv_text(table.data)


def csv_text(data: pd.DataFrame) -> str:
    """`to_csv` of a frame."""
    words = {name: data[name].map(_harmless) for name in data.select_dtypes(exclude="number").columns}
    return data.assign(**words).rename(columns=_harmless).to_csv(index=False, lineterminator="\n")


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _harmless(value: Any) -> Any:
    """The value; text with an apostrophe before it where it is a formula, which text that is a number is not."""
    runs = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if runs and not NUMBER.fullmatch(value) else value


def to_parquet(table: Table) -> bytes:
    """The same values with their types; columns that mix words and numbers hold words."""
    return parquet_bytes(table.data)


def parquet_bytes(data: pd.DataFrame) -> bytes:
    """`to_parquet` of a frame."""
    data = data.copy()
    for column in data.select_dtypes(object).columns:
        kinds = {type(value) for value in data[column] if value is not None and value == value}
        if len(kinds) > 1:
            data[column] = [None if value is None or value != value else str(value) for value in data[column]]
    file = io.BytesIO()
    data.to_parquet(file, index=False, engine="pyarrow")
    return file.getvalue()


def to_markdown(table: Table) -> str:
    """A pipe table with its notes below."""
    if table.shown.empty:
        return f"{markdown(table.title)}: {markdown(table.empty)}.\n"
    columns = list(table.shown.columns)
    rule = [":--" if column in table.text else "--:" for column in columns]
    cells = _cells(table, markdown, lambda text: f"**{text}**")
    rows = ["| " + " | ".join(line) + " |" for line in [[markdown(column) for column in columns], rule, *cells]]
    notes = (f"\n{markdown(note)}" for note in table.notes)
    return "\n".join([f"**{markdown(table.title)}**", "", *rows, *notes]) + "\n"


MARKDOWN = {
    "&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ",
    **{symbol: f"\\{symbol}" for symbol in "\\|[]`*~"},
}  # fmt: skip
# An underscore inside a word is no emphasis. What begins an address becomes a link, and what begins a line a list.
AT_PLACES = re.compile(r"(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.|^[-+#](?=[#\s])", re.IGNORECASE)
NUMBERED = re.compile(r"^(\d+)(?=[.)]\s)")


def markdown(text: str) -> str:
    """Text with everything escaped that would be HTML, a link, code, emphasis, or the end of a cell or line."""
    escaped = "".join(MARKDOWN.get(character, character) for character in text)
    return NUMBERED.sub(r"\1\\", AT_PLACES.sub(r"\\\g<0>", escaped))
