import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt
from run_folders import PageReader, write_sweep

from orchestrator.runs import RunFolder
from reports.formats import markdown, to_csv, to_markdown, to_parquet
from reports.html import all_tables, write_report
from reports.results import read_results
from reports.tables import Table


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
    names = ["=1+1", "-2+3", "@x", "a|b\nc", "<b>&", "[x](y)`*"]
    data = pd.DataFrame({"name": names, "value": [-1.5, 2.0, 3.0, 5.0, 7.0, 11.0]})
    return Table("odd", "A <title>", data, data.astype(str), ("name",), notes=("a [note](x)",))


def test_a_spreadsheet_runs_no_cell_and_numbers_stay_numbers() -> None:
    lines = to_csv(odd_table()).splitlines()
    assert lines[:4] == ["name,value", "'=1+1,-1.5", "'-2+3,2.0", "'@x,3.0"]


def test_an_empty_table_has_its_header() -> None:
    table = odd_table()
    assert to_csv(replace(table, data=table.data.iloc[:0])) == "name,value\n"


def test_every_table_of_a_sweep_that_has_not_started_has_its_header(finished: RunFolder, tmp_path: Path) -> None:
    """The same columns as with trials, but for those that trials bring along: hyperparameters and the second metric."""
    folder = RunFolder(tmp_path / "unstarted")
    write_sweep(folder, finished=False)
    tables = {table.name: table for table in all_tables(read_results(folder.path))}
    full = {table.name: table for table in all_tables(read_results(finished.path))}
    assert tables.keys() == full.keys()
    for name, table in tables.items():
        header = next(csv.reader(io.StringIO(to_csv(table))))
        brought = re.compile("optimizer|loss.kappa|schedule|.*is_lite0_mean")
        assert header == [column for column in full[name].data.columns if not brought.match(column)], name
        assert pd.read_parquet(io.BytesIO(to_parquet(table))).columns.tolist() == header
    assert [name for name, table in tables.items() if len(table.data)] == ["comparison", "counts", "provenance"]


def test_text_that_is_a_number_stays_one_and_a_formula_does_not() -> None:
    values = ["-5", "+.5e3", "-1.", 7, -2.5, None, "-5+1", "-e5", "-", "-inf", "+1 2", "-٣", "\n=1"]
    frame = pd.DataFrame({"value": pd.Series(values, dtype=object)})
    cells = [row["value"] for row in csv.DictReader(io.StringIO(to_csv(Table("odd", "", frame, frame))))]
    plain = ["-5", "+.5e3", "-1.", "7", "-2.5", ""]
    assert cells == [*plain, "'-5+1", "'-e5", "'-", "'-inf", "'+1 2", "'-٣", "'\n=1"]


def test_markdown_is_read_back_as_it_was_written() -> None:
    """By a parser of CommonMark with tables and strikethrough, which is what GitHub and MLflow show."""
    words = [
        "__c__",
        "~~d~~",
        "_e_",
        "*f*",
        "a_b",
        "fd_lite0",
        "1. g",
        "# h",
        "- i",
        "\\_j_",
        "<k>",
        "[l](m)",
        "`n`",
        "o|p",
    ]
    frame = pd.DataFrame({"name": words})
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for table in (Table("odd", "q", frame, frame, notes=tuple(words)), Table("odd", "~~q~~", frame[:0], frame[:0])):
        seen = PageReader(html := page.render(to_markdown(table)))
        assert set(re.findall(r"<([a-z0-9]+)", html)) <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
        assert seen.text == " ".join([table.title, "name", *words, *words] if len(table.shown) else ["~~q~~: none."])
    assert markdown("fd_lite0") == "fd_lite0"


def test_no_bare_address_becomes_a_link() -> None:
    """GitHub and MLflow link what begins so, and nothing that has a backslash there."""
    escaped = markdown("see https://a.org, HTTP://b.org or www.c.org; d: e")
    assert escaped == r"see https\://a.org, HTTP\://b.org or www\.c.org; d: e"


def test_markdown_holds_no_html_no_link_and_one_line_for_each_row() -> None:
    lines = to_markdown(odd_table()).splitlines()
    assert lines[0] == "**A &lt;title&gt;**"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert rows[5] == r"| a\|b c | 5.0 |"
    assert rows[6] == "| &lt;b&gt;&amp; | 7.0 |"
    assert rows[7] == r"| \[x\](y)\`\* | 11.0 |"
    assert lines[-1] == r"a \[note\](x)"
