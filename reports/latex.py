r"""Tables for a paper: booktabs in a threeparttable, at \small no wider than 5.5 inches, on one page.

What is wider is stacked: the columns go into several tabulars below each other, each with the first column again. What
is longer is cut, and says so. The widths of letters are estimates, a little too large.
"""

import math
import re
from collections.abc import Sequence

from reports.tables import Table

LINE = 397.0  # points in 5.5 inches
EM = 9.25  # points, of the font of \small in a document of 10 points
GAP = 8.0  # points between columns
WIDE = 0.45  # share of the line from which a column's cells are broken into lines
LONG_WORD = 100.0  # points from which a word is broken where it must
HEAD = 3  # lines of a header, where that needs no column wider than LONG_WORD
LINES = 40  # of a page that the rows of a table take at most
BOLD = 1.16  # width of bold letters
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "—": "--", "…": r"\ldots{}", "∞": r"$\infty$",
    "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "−": "$-$", "·": r"$\cdot$", "→": r"$\rightarrow$", "–": "--",
    "κ": r"$\kappa$", "τ": r"$\tau$", "σ": r"$\sigma$", "ρ": r"$\rho$", "λ": r"$\lambda$", "μ": r"$\mu$",
    "β": r"$\beta$", "\n": " ", "\r": " ", "\t": " ", "\u00a0": " ",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}  # fmt: skip
LETTERS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŒœŠšŽžŁłČčŘřŐőŰű"  # pdflatex knows them


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX would read as a command; "?" for what pdflatex does not know."""
    known = "".join(LATEX.get(c, c if " " <= c <= "~" or c in LETTERS else "?") for c in text)
    return known.replace("?\\textasciigrave", "?{}\\textasciigrave")


def breakable(text: str) -> str:
    """`latex` of text whose long words may break: after their punctuation, or anywhere where there is none for long."""
    parts = []
    for word in re.findall(r"\s+|\S+", text):
        if width(word) <= LONG_WORD:
            parts.append(latex(word))
            continue
        for piece in re.findall(r"[^/_.=,-]+[/_.=,-]*|[/_.=,-]+", word):
            letters = piece if width(piece) > LONG_WORD else [piece]
            parts += [latex(letter) + r"\allowbreak{}" for letter in letters]
    return "".join(parts)


def width(text: str) -> float:
    """Points that a text takes in one line."""
    ems = {**dict.fromkeys("iljtfr.,:;!'|()[] ", 0.4), **dict.fromkeys("mwMW%@&±∞…+=<>×≤≥", 1.0)}
    return EM * sum(ems.get(c, 0.78 if c.isupper() else 0.56) for c in text)


def to_latex(table: Table) -> str:
    """A table environment; \\usepackage{booktabs,threeparttable} is all that it needs."""
    if table.shown.empty:
        return f"% {latex(table.title)}: none\n"
    columns = [str(column) for column in table.shown.columns]
    cells = [[str(cell) for cell in row] for row in table.shown.to_numpy().tolist()]
    widths = [_column_width(table, columns, cells, i) for i in range(len(columns))]
    blocks = _blocks(widths)
    shown = _rows_of_a_page(cells, widths, blocks)
    notes = list(table.notes)
    if shown < len(cells):
        notes.insert(0, f"The first {shown} of {len(cells):,} rows; all are in {table.name}.csv.")
    parts = [_tabular(table, columns, cells[:shown], widths, block) for block in blocks]
    lines = [
        r"% \usepackage{booktabs,threeparttable}",
        r"\begin{table}",
        r"\small",
        rf"\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}",
        r"\begin{threeparttable}",
        rf"\caption{{{latex(table.title)}{'' if table.title[-1:] in '.?!' else '.'}}}",
        "\n\\par\\medskip\n".join(parts),
        *([r"\begin{tablenotes}[flushleft]", r"\footnotesize\raggedright"] if notes else []),
        *(rf"\item {{}}{breakable(note)}" for note in notes),
        *([r"\end{tablenotes}"] if notes else []),
        r"\end{threeparttable}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _column_width(table: Table, columns: Sequence[str], cells: Sequence[Sequence[str]], i: int) -> float:
    """Points of the longest cell, or of the header in HEAD lines."""
    strong = [BOLD if (row, columns[i]) in table.strong else 1.0 for row in range(len(cells))]
    longest = max(width(row[i]) * factor for row, factor in zip(cells, strong, strict=True))
    least = max(width(word) for word in [*columns[i].split(), ""])
    while len(_folded(columns[i], max(longest, least))) > HEAD and least < LONG_WORD:
        least += GAP
    return max(longest, least)


def _wrapped(widths: Sequence[float], i: int) -> float | None:
    """Points to which the cells of a column are broken into lines; None where they are not."""
    if widths[i] <= WIDE * LINE:
        return None
    return WIDE * LINE if i == 0 else LINE - GAP - min(widths[0], WIDE * LINE)


def _blocks(widths: Sequence[float]) -> list[list[int]]:
    """The columns of each tabular, without the first, which is in all of them."""
    blocks: list[list[int]] = []
    room = 0.0
    for i in range(1, len(widths)):
        need = GAP + (_wrapped(widths, i) or widths[i])
        if not blocks or need > room:
            blocks.append([])
            room = LINE - min(widths[0], WIDE * LINE)
        blocks[-1].append(i)
        room -= need
    return blocks or [[]]


def _rows_of_a_page(cells: Sequence[Sequence[str]], widths: Sequence[float], blocks: Sequence[Sequence[int]]) -> int:
    """How many rows fit on a page, at least one."""
    lines = 4.0 * (len(blocks) - 1)
    for count, row in enumerate(cells):
        for block in blocks:
            folded = [1.15 * width(row[i]) / limit for i in (0, *block) if (limit := _wrapped(widths, i))]
            lines += max([1, *map(math.ceil, folded)])
        if lines > LINES and count:
            return count
    return len(cells)


def _tabular(
    table: Table, columns: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[float], block: Sequence[int]
) -> str:
    """One tabular of the first column and those of a block."""
    own = [0, *block]
    limits = [_wrapped(widths, i) for i in own]
    kinds = [
        f"p{{{x:.0f}pt}}" if x else "l" if columns[i] in table.text else "r" for i, x in zip(own, limits, strict=True)
    ]
    heads = [
        [rf"\raggedright {breakable(columns[i])}"] if x else [latex(line) for line in _folded(columns[i], widths[i])]
        for i, x in zip(own, limits, strict=True)
    ]
    height = max(map(len, heads))
    rows = [[[*[""] * (height - len(head)), *head][line] for head in heads] for line in range(height)]
    body = []
    for number, row in enumerate(cells):
        texts = [rf"\raggedright {breakable(row[i])}" if x else latex(row[i]) for i, x in zip(own, limits, strict=True)]
        strong = [(number, columns[i]) in table.strong for i in own]
        body.append(
            [rf"\textbf{{{text}}}" if is_strong else text for text, is_strong in zip(texts, strong, strict=True)]
        )
    lines = [
        rf"\begin{{tabular*}}{{\linewidth}}{{@{{}}{kinds[0]}@{{\extracolsep{{\fill}}}}{''.join(kinds[1:])}@{{}}}}",
        r"\toprule",
        *map(_line, rows),
        r"\midrule",
        *map(_line, body),
        r"\bottomrule",
        r"\end{tabular*}",
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    """A row; an empty group keeps a bracket or star at its begin from being read as an option of the row before."""
    text = " & ".join(cells)
    return ("{}" if text[:1] in ("[", "*") else "") + text + r" \tabularnewline"


def _folded(text: str, limit: float) -> list[str]:
    """The words of a header in lines that are no wider than the limit, but for single words that are."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= limit:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]
