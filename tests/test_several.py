"""Several sweeps: one page with a table for each and one figure of all; one line each in the terminal."""

import json
from pathlib import Path

from run_folders import PageReader, build_run_folder

from orchestrator.overview import overview_lines
from orchestrator.runs import RunFolder
from reports.results import read_results
from reports.several import several_frame, write_several


def two_sweeps(path: Path) -> list[str]:
    """The same trials twice, the second of conditional models and under another name."""
    for name, conditional in (("plain", False), ("classes", True)):
        folder = build_run_folder(path / name)
        content = json.loads(folder.sweep_json.read_text()) | {"name": name}
        for arm in content["sweep"]["arms"].values():
            arm["model"]["conditional"] = conditional
        folder.sweep_json.write_text(json.dumps(content))
    return [str(path / "plain"), str(path / "classes")]


def test_one_page_with_a_table_for_each_sweep_and_one_figure_of_all(tmp_path: Path) -> None:
    sources = two_sweeps(tmp_path)
    page = write_several(sources, tmp_path / "page").read_text()
    assert PageReader(page).open == []
    assert page.count("<table>") == 2
    assert "fd_lite0 of the finals of 2 sweeps" in page
    assert page.count('stroke-dasharray="2,3"') == 2 * 2  # the conditional arms, of two metrics
    frame = several_frame([read_results(source) for source in sources], "fd_lite0")
    assert frame.groupby("line")["conditional"].first().to_dict() == {
        "plain: pixelcnn": False, "plain: pixeliqn": False, "classes: pixelcnn": True, "classes: pixeliqn": True,
    }  # fmt: skip


def test_a_line_for_each_sweep_of_a_folder(tmp_path: Path) -> None:
    two_sweeps(tmp_path)
    RunFolder(tmp_path / "broken").path.mkdir()
    (tmp_path / "broken" / "sweep.json").write_text("{")
    lines = overview_lines(tmp_path)
    assert [line.partition(":")[0] for line in lines] == ["broken", "classes", "plain"]
    assert lines[1].startswith("classes: finished, 16/16 trials done, 1 diverged, 1 failed, 2 pruned, best fd_lite0 ")
    assert "sweep.json" in lines[0]
    assert overview_lines(tmp_path / "plain") == []  # a run folder itself: its own status
