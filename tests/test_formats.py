import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from orchestrator.runs import RunFolder
from reports.comparison import comparison
from reports.formats import latex, to_csv, to_markdown
from reports.html import write_report
from reports.results import read_results
from reports.tables import Table


def test_markdown_and_latex_hold_the_same_cells(finished: RunFolder) -> None:
    table = comparison(read_results(finished.path))
    lines = (finished.report / "comparison.md").read_text().splitlines()
    pipes = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    source = (finished.report / "comparison.tex").read_text()
    body = re.search(r"\\toprule\n(.*)\\bottomrule", source, re.DOTALL)
    alignment = re.search(r"\\begin\{tabular\}\{([lr]+)\}", source)
    assert body
    assert alignment
    plain = body[1].replace(r"\midrule" + "\n", "").replace(r"\_", "_").replace(r"\%", "%").replace(r"$\pm$", "±")
    plain = re.sub(r"\\textbf\{([^}]*)\}", r"**\1**", plain).replace(r"$\downarrow$", "↓").replace(r"$\uparrow$", "↑")
    cells = [line.removesuffix(r" \\").split(" & ") for line in plain.strip().splitlines()]
    assert cells == [pipes[0], *pipes[2:]]
    assert len(alignment[1]) == len(cells[0]) == len(table.shown.columns)
    assert "**61.02 ± 0.57**" in cells[2]


def test_latex_escapes_every_special_character() -> None:
    assert latex(r"a_b%c&d#e$f{g}~^\ ±") == (
        r"a\_b\%c\&d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )


def test_the_same_run_folder_gives_the_same_bytes(finished: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "quickstart"
    shutil.copytree(finished.path, copy, ignore=shutil.ignore_patterns("report"))
    for path in copy.glob("trials/*/status.json"):  # logs are recorded with the folder's first path
        path.write_text(path.read_text().replace(str(finished.path), str(copy)))
    write_report(copy)
    written, again = (
        {path.relative_to(report): path.read_bytes() for path in report.rglob("*") if path.is_file()}
        for report in (finished.report, copy / "report")
    )
    assert sorted(written) == sorted(again)
    assert [name for name in written if written[name] != again[name]] == []


def odd_table() -> Table:
    """Words that a spreadsheet, Markdown or HTML would act on, and numbers that must stay numbers."""
    names = ["=1+1", "-2", "@x", "a|b\nc", "<b>&", "[x](y)`*"]
    data = pd.DataFrame({"name": names, "value": [-1.5, 2.0, 3.0, 5.0, 7.0, 11.0]})
    return Table("odd", "A <title>", data, data.astype(str), ("name",), notes=("a [note](x)",))


def test_a_spreadsheet_runs_no_cell_and_numbers_stay_numbers() -> None:
    lines = to_csv(odd_table()).splitlines()
    assert lines[:4] == ["name,value", "'=1+1,-1.5", "'-2,2.0", "'@x,3.0"]


def test_an_empty_table_has_its_header() -> None:
    table = odd_table()
    assert to_csv(replace(table, data=table.data.iloc[:0])) == "name,value\n"
    assert to_csv(replace(table, data=pd.DataFrame(), shown=table.shown.iloc[:0])) == "name,value\n"


def test_markdown_holds_no_html_no_link_and_one_line_for_each_row() -> None:
    lines = to_markdown(odd_table()).splitlines()
    assert lines[0] == "**A &lt;title&gt;**"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert rows[5] == r"| a\|b c | 5.0 |"
    assert rows[6] == "| &lt;b&gt;&amp; | 7.0 |"
    assert rows[7] == r"| \[x\](y)\`\* | 11.0 |"
    assert lines[-1] == r"a \[note\](x)"


def test_latex_knows_every_sign_of_our_tables_and_replaces_what_it_does_not_know() -> None:
    assert latex("∞ × ≤ ≥ κ é") == r"$\infty$ $\times$ $\leq$ $\geq$ $\kappa$ é"
    assert latex("名\n|") == r"? \textbar{}"
