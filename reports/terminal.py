"""The answer for a terminal: the page's sentence, and a table that fits 80 columns."""

import io

from rich.console import Console
from rich.table import Table

from reports.answer import answer
from reports.results import Results, chosen_finals, last_value, ranked
from reports.rounding import MISSING, plus_minus, rounded
from reports.verdict import Comparison, compare

WIDTH = 80


def terminal_text(results: Results) -> str:
    """The question, the answer and one table for each objective, as plain text of at most 80 columns.

    The table has a row for each arm: its best search value, its finals as mean ± s.d. over seeds, how many seeds
    there are, and what a test says of the arm. Names that are too long go on in the next line.
    """
    sentence, qualifier, _ = answer(results)
    file = io.StringIO()
    console = Console(file=file, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False)
    for text in (results.question or results.name, sentence, qualifier):
        if text:
            console.print(text + "\n")
    for view in results.views:
        console.print(_table(view))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _table(results: Results) -> Table:
    found, name = compare(results), results.objective.label
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("arm", f"best {name}", f"final {name}", "seeds", ""):
        drawn.add_column(column, justify="left" if column in ("arm", "") else "right", overflow="fold")
    order = [*found.order, *(arm for arm in results.arms if arm not in found.order)]
    for arm in order:
        best = next(iter(ranked(results, arm)), None)
        seeds = f"{len(chosen_finals(results, arm))} of {results.seeds}" if results.top else MISSING
        value = last_value(best, results.objective.name) if best else None
        drawn.add_row(arm, rounded(value), plus_minus(found.summaries.get(arm)), seeds, _standing(found, arm))
    return drawn


def _standing(found: Comparison, arm: str) -> str:
    """What a test says of an arm beside the best one; "" where nothing was tested."""
    if found.why or arm not in found.order or len(found.order) == 1:
        return ""
    if arm == found.order[0]:
        return "better than all others" if found.leader else "best mean"
    pair = found.pair(found.order[0], arm)
    return "worse" if pair is None or pair.distinguishable else str(pair.state)
