"""Tables for a paper; what pdflatex says of them is tested where it is installed (`make latex`)."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.runs import RunFolder
from reports.comparison import comparison
from reports.html import all_tables
from reports.latex import LATEX, LETTERS, breakable, latex, to_latex
from reports.results import read_results
from reports.tables import Table

PREAMBLE = r"""\documentclass{article}
\usepackage[textwidth=5.5in,textheight=9in]{geometry}
\usepackage{booktabs,threeparttable}
\setcounter{totalnumber}{1}
\begin{document}
"""


def cells_of(source: str) -> list[list[str]]:
    """Header and rows of a table, its stacked tabulars side by side again, in our own characters."""
    plain = source.replace(r"\raggedright ", "").replace(r"\allowbreak{}", "")
    for character, command in sorted(LATEX.items(), key=lambda pair: -len(pair[1])):
        if len(command) > 1 and character not in "\\–":
            plain = plain.replace(command, character) if command not in (r"\{", r"\}") else plain
    found: list[list[str]] = []
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", plain, re.DOTALL):
        head, rest = (part.strip("\n").splitlines() for part in body.split(r"\midrule"))
        rows = [[[cell.strip() for cell in line.removesuffix(r" \tabularnewline").split(" & ")] for line in part]
                for part in (head, rest)]  # fmt: skip
        header = [" ".join(filter(None, column)) for column in zip(*rows[0], strict=True)]
        block = [header, *rows[1]]
        found = [[*left, *right[1:]] for left, right in zip(found, block, strict=True)] if found else block
    return found


def test_latex_holds_every_cell_also_where_columns_are_stacked(finished: RunFolder) -> None:
    table = comparison(read_results(finished.path))
    source = to_latex(table)
    assert source.count(r"\begin{tabular*}") > 1
    cells = [[re.sub(r"\\textbf\{([^}]*)\}", r"\1", cell) for cell in row] for row in cells_of(source)]
    assert cells == [list(table.shown.columns), *table.shown.to_numpy().tolist()]
    assert r"\textbf{61.02 $\pm$ 0.57}" in source
    assert source.index(r"\end{tabular*}") < source.index(r"\begin{tablenotes}") < source.index("Student")


def test_a_table_of_more_than_a_page_is_cut_and_says_so() -> None:
    frame = pd.DataFrame({"trial": [f"t{i}" for i in range(1234)]})
    source = to_latex(Table("trials", "All", frame, frame, ("trial",)))
    assert r"\item {}The first 40 of 1,234 rows; all are in trials.csv." in source
    assert r"t39 \tabularnewline" in source
    assert "t40" not in source


def test_latex_escapes_every_special_character() -> None:
    assert latex(r"a_b%c&d#e$f{g}~^\ ±") == (
        r"a\_b\%c\&d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )
    assert latex("∞ × ≤ ≥ κ é") == r"$\infty$ $\times$ $\leq$ $\geq$ $\kappa$ é"
    assert latex("名\n|\0đ") == r"? \textbar{}??"
    assert breakable("a/b_c") == r"a/b\_c"
    path = "trials/pixelcnn-search-4/config.json"
    assert breakable(path).split(r"\allowbreak{}") == ["trials/", "pixelcnn-", "search-", "4/", "config.", "json", ""]
    assert breakable("x" * 40).count(r"x\allowbreak{}") == 40


def hard_tables() -> list[Table]:
    """Every character of ASCII and Latin, at the beginning of cells too, and words that are far too long."""
    characters = [*map(chr, range(0x250)), *LATEX, *LETTERS, "名", "?`", "--", "\U0001f600"]
    frame = pd.DataFrame({"at": characters, "[name]": [f"{c}x{c}" for c in characters]})
    rows = [Table(f"c{i}", "*[t]~", frame[i : i + 30], frame[i : i + 30], ("at",)) for i in range(0, len(frame), 30)]
    words = pd.DataFrame([{"first" * 30: "a" * 300, "W" * 20: "[x] " * 90, "c d": "trials/a-b_c.d=e," * 20, "*": "5"}])
    numbers = pd.DataFrame([{f"Final metric_{i} ↓": "1,234.5 ± 0.17" for i in range(23)}] * 7)
    bold = frozenset((row, column) for row in range(7) for column in numbers.columns)
    return [
        *rows,
        Table("words", "Words", words, words, tuple(words.columns), notes=("n" * 200, "/a/b" * 90, "[o] * _")),
        Table("numbers", "Numbers", numbers, numbers, strong=bold, notes=("One.",)),
    ]


@pytest.mark.cluster
def test_pdflatex_sets_every_table_within_the_lines(finished: RunFolder, tmp_path: Path) -> None:
    """No error, no box that is too wide or too high, no character that the font lacks; needs TeX Live's pdflatex."""
    assert shutil.which("pdflatex"), "make latex installs it"
    tables = [*all_tables(read_results(finished.path)), *hard_tables()]
    for number, source in enumerate(map(to_latex, tables)):
        (tmp_path / f"t{number}.tex").write_text(source)
    inputs = "".join(f"\\input{{t{number}}}\\clearpage\n" for number in range(len(tables)))
    (tmp_path / "all.tex").write_text(PREAMBLE + inputs + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", errors="replace")
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert re.findall(r"^! .*|^Overfull .*|.*Float too large.*|^Missing character.*", log, re.MULTILINE) == []
    assert done.returncode == 0
