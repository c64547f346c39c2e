import re
import shutil
from pathlib import Path

from orchestrator.runs import RunFolder
from reports.comparison import comparison
from reports.formats import latex
from reports.html import write_report
from reports.results import read_results


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
