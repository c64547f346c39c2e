"""Trials' pages: every number is that of the run folder, and nothing from it becomes markup."""

import re
import time
from pathlib import Path

import pytest
from run_folders import PageReader, build_run_folder, page_of, params_of, record, write_grid, write_sweep, write_trial

from orchestrator.runs import RunFolder, write_json
from reports.html import write_report
from reports.results import read_results
from reports.trial_page import curve_svg, write_trial_pages


def trial_page(folder: RunFolder, trial: str) -> str:
    return (folder.report / "trials" / f"{trial}.html").read_text(encoding="utf-8")


def test_finals_and_the_best_search_trials_have_pages_that_the_main_page_links(finished: RunFolder) -> None:
    pages = {path.stem for path in (finished.report / "trials").glob("*.html")}
    completed = {f"{arm}-search-{n}" for arm in ("pixelcnn", "pixeliqn") for n in (0, 4, 5)}
    assert completed | {f"{arm}-final-{n}" for arm in ("pixelcnn", "pixeliqn") for n in (0, 1)} <= pages
    assert not {"pixelcnn-search-2", "pixelcnn-search-3", "pixeliqn-search-1"} & pages  # pruned, failed, diverged
    linked = [address for address in PageReader(page_of(finished)).addresses if address.startswith("trials/")]
    assert {Path(address).stem for address in linked} == pages
    assert linked.count("trials/pixelcnn-search-4.html") == 2  # in its table, and in the list


def test_a_page_shows_what_the_trial_recorded(finished: RunFolder) -> None:
    page = PageReader(text := trial_page(finished, "pixeliqn-final-1"))
    assert page.images == 7
    assert "the configuration of pixeliqn-search-4" in page.text
    assert "seed 1" in page.text
    assert "1,500 steps" in page.text
    assert "config_hash pixeliqn1" in page.text
    value = record("pixeliqn", 4, 1500, 1000, shift=0.8)["fd_lite0"]
    assert f"fd_lite0 {value:.2f} at the end" in page.text
    assert f"{value:.2f} at step 1,500" in page.text
    assert "Not in MLflow yet" in page.text
    assert "Calibration" not in page.text
    assert [address for address in page.addresses if not address.startswith("data:image/png")] == ["../index.html"]
    assert "default-src 'none'" in text


def test_mlflow_and_calibration_where_they_are_recorded(folder: RunFolder) -> None:
    shares = {step: {"calibration_05": 0.1 + step, "calibration_95": 0.98} for step in (0, 3)}
    history = [{**record("pixeliqn", 9, step, 512), **found} for step, found in shares.items()]
    write_trial(folder, "pixeliqn", "final", 9, history, params=params_of("pixeliqn", 4), seed=9, source=4)
    write_json(folder.mirror, {"uri": "http://tracking:5001/", "experiment": "7", "runs": {"pixeliqn-final-9": "ab1"}})
    write_report(folder.path)
    page = PageReader(trial_page(folder, "pixeliqn-final-9"))
    assert "http://tracking:5001/#/experiments/7/runs/ab1" in page.addresses
    assert "0.05 0.95" in page.text
    assert "3.10 0.980" in page.text
    write_json(folder.mirror, {"uri": "sqlite:///x.db", "experiment": "7", "runs": {"pixeliqn-final-9": "ab1"}})
    write_report(folder.path)
    page = PageReader(trial_page(folder, "pixeliqn-final-9"))
    assert "http://127.0.0.1:5000/#/experiments/7/runs/ab1" in page.addresses
    assert "while aiqn ui runs" in page.text


def test_text_from_the_run_folder_cannot_become_markup(folder: RunFolder) -> None:
    evil = "<script>alert(1)</script>"
    history = [{**record("pixelcnn", 8, step, 512), evil: 1.0 + step} for step in (0, 3)]
    write_trial(folder, "pixelcnn", "final", 8, history, params={"optimizer.name": evil}, seed=8, cause=evil)
    write_report(folder.path)
    assert "<script" not in trial_page(folder, "pixelcnn-final-8")


def test_a_curve_is_drawn_to_scale() -> None:
    svg = curve_svg([(0, 5.0), (25, 3.0), (100, 1.0)])
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', svg)[1].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.5, abs=0.01)
    assert y0 < y2  # a larger value is higher up
    assert len(re.findall("<circle", svg)) == 3
    assert "<circle" not in curve_svg([(step, 1.0) for step in range(40)])


def test_grids_of_a_conditional_model_say_that_rows_are_classes(tmp_path: Path) -> None:
    folder = build_run_folder(tmp_path / "quickstart")
    path = folder.trial("pixeliqn-final-0").config
    path.write_text(path.read_text().replace('"name": "pixeliqn"', '"name": "pixeliqn", "conditional": true', 1))
    write_report(folder.path)
    assert "a class in each row" in page_of(folder)
    assert "a class in each row" in trial_page(folder, "pixeliqn-final-0")


def test_a_thousand_trials_do_not_need_a_thousand_pages(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quickstart")
    write_sweep(folder, search={"trials": 60, "objective": {"metric": "fd_lite0", "direction": "minimize"}})
    for arm in ("pixelcnn", "pixeliqn"):
        for number in range(60):
            history = [record(arm, number, step, 512) for step in range(0, 200, 2)]
            write_trial(folder, arm, "search", number, history)
        write_grid(folder.trial(f"{arm}-search-4").samples(198), seed=1)
    results, begin = read_results(folder.path), time.perf_counter()
    pages = write_trial_pages(results, folder.report)
    print(f"pages of 120 trials took {time.perf_counter() - begin:.2f} s")
    assert len(pages) == 10
