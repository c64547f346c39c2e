import json

import numpy as np
import pytest
from run_folders import csv_rows, finals_by_hand, record, results_with, write_trial
from scipy import stats

from orchestrator.runs import write_json
from reports.comparison import comparison, published
from reports.results import read_results


@pytest.mark.parametrize("arm", ["pixelcnn", "pixeliqn"])
def test_the_interval_is_students(finished, arm):
    row = next(row for row in csv_rows(finished.report / "comparison.csv") if row["arm"] == arm)
    values = np.array(finals_by_hand(finished, arm, "fd_lite0"))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert float(row["final_fd_lite0_interval_low"]) == pytest.approx(low)
    assert float(row["final_fd_lite0_interval_high"]) == pytest.approx(high)


def test_one_seed_has_no_interval(folder):
    for arm in ("pixelcnn", "pixeliqn"):
        (folder.trial(f"{arm}-final-1").status).write_text('{"state": "failed"}')
    shown = comparison(read_results(folder.path)).shown
    assert shown["95 % interval"].tolist() == ["—", "—"]


def test_hours_count_what_a_trial_holds(folder):
    seconds = sum(
        json.loads(path.read_text().splitlines()[-1])["seconds"]
        for path in folder.trials.glob("pixelcnn-*/metrics.jsonl")
    )
    for resources, unit, hours in (
        ({"cpu": 2, "gpu": 0}, "Core-hours", seconds / 1800),
        ({"cpu": 2, "gpu": 0.5}, "GPU-hours", seconds / 7200),
    ):
        content = json.loads(folder.sweep_json.read_text())
        content["sweep"]["resources"] = resources
        write_json(folder.sweep_json, content)
        table = comparison(read_results(folder.path))
        assert unit in table.shown
        assert table.data["hours"].iloc[0] == pytest.approx(hours)


def paper_run(
    folder, *, data="cifar10", samples=10_000, reference=10_000, metric="fid", model_weights="averaged", **changes
):
    """Finals of pixelcnn as the paper's small model on CIFAR-10 would leave them, but for what is given."""
    content = json.loads(folder.sweep_json.read_text())
    content["sweep"]["arms"]["pixelcnn"]["data"] = {"name": data}
    write_json(folder.sweep_json, content)
    for seed in (0, 1):
        scores = {metric: 66.0 + seed, "is_mean": 4.5}
        history = [{**record("pixelcnn", 4, 300, samples), **scores}]
        write_trial(folder, "pixelcnn", "final", seed, history, seed=seed, source=4)
        path = folder.trial(f"pixelcnn-final-{seed}").config
        config = json.loads(path.read_text())
        model = {"name": "pixelcnn", "layers": 15, "planes": 128, "kernel": 5, "skip_planes": 1024}
        config["config"] = {"model": model | changes}
        config["provenance"]["protocol"] |= {"reference": reference, "model_weights": model_weights}
        write_json(path, config)


def test_the_papers_numbers_stand_beside_ours_where_data_model_and_protocol_match(folder):
    for path in folder.trials.glob("pixelcnn-final-*/metrics.jsonl"):
        path.unlink()
    paper_run(folder)
    (row,) = published(read_results(folder.path)).data.to_dict(orient="records")
    assert row == {"arm": "pixelcnn", "fid": 66.5, "paper_fid": 65.93, "is_mean": 4.5, "paper_is": 4.6}


@pytest.mark.parametrize(
    "change",
    [
        {"data": "digits"},
        {"samples": 2500},
        {"reference": 5000},
        {"planes": 64},
        {"metric": "fd_lite0"},
        {"trunk": "snail"},
        {"kernel": 3},
        {"model_weights": "last"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_and_nowhere_else(folder, change):
    for path in folder.trials.glob("pixelcnn-final-*/metrics.jsonl"):
        path.unlink()
    paper_run(folder, **change)
    assert published(read_results(folder.path)).shown.empty


@pytest.mark.parametrize("samples", [1000, 999])
def test_distances_of_infinitely_many_samples_stand_in_a_column_of_their_own(folder, samples):
    assert not any("∞" in column for column in comparison(read_results(folder.path)).shown)
    for seed, value in ((0, 40.0), (1, 43.0)):
        for arm, source in (("pixelcnn", 4), ("pixeliqn", 5)):
            last = record(arm, source, 1500, samples)
            if arm == "pixelcnn":  # `infinite` as another version measured it
                last |= {"fd_lite0_bias": last["fd_lite0"] - value, "fd_lite0_infinite": 7.0}
            folder.trial(f"{arm}-final-{seed}").metrics.unlink()
            write_trial(folder, arm, "final", seed, [last], seed=seed, source=source)
    table = comparison(read_results(folder.path))
    assert table.shown["Of ∞ samples fd_lite0 ↓"].tolist() == ["41.5 ± 2.2", "—"]
    assert table.data["final_infinite_mean"].tolist()[0] == pytest.approx(41.5)
    assert any("still too large" in note for note in table.notes) == (samples < 1000)


@pytest.mark.parametrize(
    ("metric", "direction", "values", "text"),
    [
        ("fd_lite0", "minimize", [9.1, 13.0], "0 to 36"),
        ("is_lite0_mean", "maximize", [1.09, 1.1011], "1.025 to 1.166"),
        ("is_lite0_mean", "maximize", [1.1, 1.3], "1.00 to 2.47"),
        ("kd_lite0", "minimize", [0.5, 1.5], "-5.4 to 7.4"),  # an unbiased estimate can be negative
    ],
)
def test_no_interval_leaves_the_range_of_its_metric(tmp_path, metric, direction, values, text):
    results = results_with(tmp_path, {"a": values, "b": values}, metric, direction)
    table = comparison(results)
    assert table.shown["95 % interval"].tolist() == [text] * 2
    cut = any(f"where {metric} ends" in note for note in table.notes)
    reach = 12.706 * np.std(values, ddof=1) / 2**0.5
    assert cut == (np.mean(values) - reach < {"fd_lite0": 0, "is_lite0_mean": 1}.get(metric, -np.inf))


@pytest.mark.parametrize(("size", "warned"), [(32, True), (63, True), (64, False), (128, False)])
def test_a_size_that_is_too_small_for_the_network_is_warned_of(tmp_path, size, warned):
    results = results_with(tmp_path, {"a": [1.0, 2.0], "b": [1.5, 2.5]})
    for run in results.runs:
        run.provenance["protocol"] |= {"extractor": "efficientnet-lite0", "size": size}
    found = [note for note in comparison(results).notes if f"at {size} pixels a side" in note]
    assert len(found) == warned
