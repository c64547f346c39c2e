import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from run_folders import SEEDS, csv_rows, distance, page_of, record, write_sweep, write_trial

from orchestrator.runs import RunFolder
from reports import curves, figures
from reports.html import write_report
from reports.results import read_results


def test_figures_are_written_in_three_formats(finished: RunFolder) -> None:
    for metric in ("fd_lite0", "is_lite0_mean"):
        for axis in ("step", "seconds"):
            stem = finished.report / f"{metric}-by-{axis}"
            assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
            assert "<svg" in stem.with_suffix(".svg").read_text()
            with Image.open(stem.with_suffix(".png")) as image:
                assert len(image.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 50


def test_curve_of_the_finals_is_the_mean_with_the_range_of_seeds(finished: RunFolder) -> None:
    results = read_results(finished.path)
    frame = curves.curve_frame(results, results.objective)
    final = frame[(frame["kind"] == "final") & (frame["arm"] == "pixelcnn")]
    assert final["step"].tolist() == list(range(0, 1501, 250))
    for point in final.to_dict(orient="records"):
        low = distance("pixelcnn", 4, point["step"], 1000)
        assert [point[key] for key in ("low", "value", "high")] == pytest.approx([low, low + 0.4, low + 0.8])
    ends = frame[(frame["kind"] == "search") & frame["point"].astype(bool)]
    assert len(ends) == 12
    assert dict(zip(ends["line"], ends["step"], strict=True))["pixelcnn-search-2"] == 200


def test_a_mean_uses_only_steps_that_all_seeds_have(folder: RunFolder) -> None:
    for seed, last in zip(SEEDS, (750, 250), strict=True):
        shutil.rmtree(folder.trial(f"pixelcnn-final-{seed}").path)
        history = [record("pixelcnn", 4, step, 1000) for step in range(0, last + 1, 250)]
        write_trial(folder, "pixelcnn", "final", seed, history, state="running", seed=seed, source=4)
    results = read_results(folder.path)
    frame = curves.curve_frame(results, results.objective)
    assert frame[(frame["kind"] == "final") & (frame["arm"] == "pixelcnn")]["step"].tolist() == [0, 250]


def test_thinning_keeps_the_best_the_worst_and_even_ranks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "many")
    write_sweep(folder)
    order = np.random.default_rng(7).permutation(101)
    for number, rank in enumerate(order):
        history = [{"step": 200, "seconds": 1.0, "samples": 5, "fd_lite0": 10.0 + float(rank)}]
        write_trial(folder, "pixelcnn", "search", number, history)
    results = read_results(folder.path)
    kept = curves.thinned(results.of("pixelcnn", "search"), results.objective, limit=11)
    assert [run.history[0]["fd_lite0"] for run in kept] == [10.0 + 10 * i for i in range(11)]
    assert "11 of 101" in curves.caption(results, results.objective, curves.curve_frame(results, results.objective, 11))


@pytest.mark.parametrize(("last", "kind"), [(50.0, "linear"), (10.0, "log"), (-1.0, "linear")])
def test_y_axis_is_logarithmic_where_the_range_asks_for_it(last: float, kind: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder)
    history = [{"step": s, "seconds": 1.0 + s, "fd_lite0": v} for s, v in ((0, 100.0), (200, last))]
    write_trial(folder, "pixelcnn", "search", 0, [{"samples": 5, **record} for record in history])
    results = read_results(folder.path)
    chart = curves.learning_chart(
        curves.curve_frame(results, results.objective), results.objective, "step", results.arms
    )
    scales = {layer["encoding"]["y"].get("scale", {}).get("type") for layer in chart.to_dict()["layer"]}
    assert kind in scales
    assert len(scales - {None}) == 1


def test_six_arms_keep_their_colors_apart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    arms = tuple(f"arm{i}" for i in range(6))
    write_sweep(folder, arms=arms, final=None)
    for arm in arms:
        write_trial(folder, arm, "search", 0, [record("pixelcnn", 0, step, 512) for step in (0, 200)])
    page = write_report(folder.path).read_text()
    assert all(f'stroke="{light}"' in page for light, _ in figures.PALETTE)
    assert len({tone for pair in figures.PALETTE for tone in pair}) == 2 * len(arms)


def test_the_files_of_curves_hold_every_record_of_every_trial(finished: RunFolder) -> None:
    """Read back with the csv module and line by line from metrics.jsonl, without our readers."""
    rows = csv_rows(finished.report / "curves.csv")
    recorded = {
        (path.parent.name, line["step"]): line
        for path in finished.trials.glob("*/metrics.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
    }
    assert {(row["trial"], int(row["step"])) for row in rows} == recorded.keys()
    assert len(rows) == len(recorded) > 50
    for row in rows:
        line = recorded[row["trial"], int(row["step"])]
        assert row["trial"].startswith(f"{row['arm']}-{row['stage']}-")
        assert row["seed"] == (row["trial"][-1] if row["stage"] == "final" else "0")
        numbers = {key: value for key, value in line.items() if key not in ("step", "time")}
        assert {key: float(row[key]) for key in numbers} == numbers
        assert row["samples"] == str(line["samples"])  # a count, not 512.0
    frame = pd.read_parquet(finished.report / "curves.parquet")
    assert list(frame.columns) == list(rows[0])
    assert frame["fd_lite0"].tolist() == [float(row["fd_lite0"]) for row in rows]
    assert 'href="curves.csv"' in page_of(finished)


def test_curves_of_a_sweep_that_has_not_started_and_of_values_that_are_missing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quickstart")
    write_sweep(folder, finished=False)
    start = "arm,stage,trial,seed,step,seconds,samples,fd_lite0"
    assert write_report(folder.path).with_name("curves.csv").read_text() == f"{start}\n"
    history = [{"step": 2, "time": 5.0, "loss": 1}, {"step": 7, "time": 6.0, "loss": float("nan")}]
    write_trial(folder, "pixelcnn", "search", 0, [*history, record("pixelcnn", 0, 11, 512)])
    lines = write_report(folder.path).with_name("curves.csv").read_text().splitlines()
    assert lines[0].startswith(start)
    assert [line.split(",")[4] for line in lines[1:]] == ["2", "11"]  # a record of nothing is none
    assert lines[1].split(",")[5:8] == ["", "", ""]
