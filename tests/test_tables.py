import json

import numpy as np
import pytest
from run_folders import FLOOR, SEARCH_STATES, SEEDS, csv_rows, distance, finals_by_hand

from orchestrator.runs import RunFolder, write_json
from reports.results import read_results
from reports.tables import plan_and_actual


@pytest.mark.parametrize("metric", ["fd_lite0", "is_lite0_mean"])
@pytest.mark.parametrize("arm", ["pixelcnn", "pixeliqn"])
def test_comparison_is_mean_and_deviation_over_seeds(finished: RunFolder, arm: str, metric: str) -> None:
    row = next(row for row in csv_rows(finished.report / "comparison.csv") if row["arm"] == arm)
    values = np.array(finals_by_hand(finished, arm, metric))
    assert len(values) == len(SEEDS)
    assert float(row[f"final_{metric}_mean"]) == pytest.approx(values.mean(), rel=1e-12)
    assert float(row[f"final_{metric}_deviation"]) == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert (row["final_step"], row["final_samples"], row["search_samples"]) == ("1500", "1000", "512")


def test_comparison_takes_the_best_completed_search_trial_at_its_last_step(finished: RunFolder) -> None:
    rows = {row["arm"]: row for row in csv_rows(finished.report / "comparison.csv")}
    for arm in FLOOR:
        assert rows[arm]["search_trial"] == f"{arm}-search-4"
        assert float(rows[arm]["search_value"]) == pytest.approx(distance(arm, 4, 600, 512))
        assert float(rows[arm]["untrained_mean"]) == pytest.approx(distance(arm, 4, 0, 1000) + 0.4)


def test_every_trial_is_counted_once_and_every_incident_listed(finished: RunFolder) -> None:
    rows = csv_rows(finished.report / "counts.csv")
    for row in rows:
        states = SEARCH_STATES[row["arm"]] if row["stage"] == "search" else ["completed"] * len(SEEDS)
        assert {s: int(row[s]) for s in set(states)} == {s: states.count(s) for s in set(states)}
    kinds = ("completed", "pruned", "diverged", "failed", "stopped", "running", "waiting")
    assert sum(int(row[kind]) for row in rows for kind in kinds) == 2 * (6 + 2)
    listed = {row["trial"]: row for row in csv_rows(finished.report / "incidents.csv")}
    troubled = {
        f"{a}-search-{i}": s for a, states in SEARCH_STATES.items() for i, s in enumerate(states) if s != "completed"
    }
    assert {trial: row["state"] for trial, row in listed.items()} == troubled
    assert listed["pixelcnn-search-3"]["attempts"] == "3"
    assert listed["pixelcnn-search-3"]["log"] == "trials/pixelcnn-search-3/log.txt"
    assert listed["pixelcnn-search-3"]["message"] == "node-b was lost\nTraceback follows"


def test_cost_adds_up(finished: RunFolder) -> None:
    *parts, total = csv_rows(finished.report / "cost.csv")
    by_hand = sum(
        json.loads(path.read_text().splitlines()[-1])["seconds"] for path in finished.trials.glob("*/metrics.jsonl")
    )
    assert float(total["total_seconds"]) == pytest.approx(by_hand)
    assert sum(float(row["training_seconds"]) + float(row["evaluation_seconds"]) for row in parts) == pytest.approx(
        by_hand
    )


def test_the_plan_against_what_was_spent(folder: RunFolder) -> None:
    lines = [
        {"arm": arm, "stage": stage, "trials": trials, "steps": steps, "seconds": seconds}
        for arm in ("pixelcnn", "pixeliqn")
        for stage, trials, steps, seconds in (("search", 6, 600, 40.0), ("final", 2, 1500, 90.0))
    ]
    write_json(folder.plan, {"basis": "a guess", "lines": lines, "wall_seconds": 100.0, "upper_bound": True})
    sweep = json.loads(folder.sweep_json.read_text())
    sweep["sweep"]["resources"] = {"cpu": 1, "gpu": 0}
    write_json(folder.sweep_json, sweep)
    begin = 5000.0
    for path in sorted(folder.trials.glob("*/status.json")):
        status = json.loads(path.read_text())
        begin += 7
        write_json(path, {**status, "attempts": 1, "started": begin, "updated": begin + 200.0, "cpu_seconds": 50.0})
    table = plan_and_actual(read_results(folder.path))
    rows = table.data.set_index("quantity")
    assert rows.loc["pixelcnn search: steps", "planned"] == 3600
    assert rows.loc["pixelcnn search: steps", "actual"] == 4 * 600 + 200 + 0
    assert rows.loc["pixeliqn final: time", "actual"] == 2 * 200
    assert rows.loc["all trials: time", "planned"] == 2 * (6 * 40 + 2 * 90)
    assert rows.loc["all trials: time", "ratio"] == pytest.approx(16 * 200 / 840)
    assert rows.loc["all trials: time on the CPU", "actual"] == 16 * 50
    assert rows.loc["wall clock", "actual"] == 15 * 7 + 200
    assert table.notes[:2] == (
        "Planned from a guess.",
        "The plan is an upper bound: it lets no trial be stopped early.",
    )


def test_without_a_plan_there_is_no_such_table(finished: RunFolder) -> None:
    assert plan_and_actual(read_results(finished.path)).shown.empty


def test_the_trials_behind_each_row_of_the_comparison(finished: RunFolder) -> None:
    rows = csv_rows(finished.report / "reproduction.csv")
    assert [row["trial"] for row in rows if row["row"].startswith("pixeliqn")] == [
        "pixeliqn-search-4",
        "pixeliqn-final-0",
        "pixeliqn-final-1",
    ]
    assert [row["seed"] for row in rows] == ["0", "0", "1"] * 2
    assert all((finished.path / row["configuration"]).is_file() for row in rows)


def test_a_plan_of_what_has_not_begun_has_no_ratio(folder: RunFolder) -> None:
    line = {"arm": "pixelcnn", "stage": "search", "trials": 6, "steps": 600, "seconds": 60.0}
    plan = {"format": 1, "lines": [line], "wall_seconds": 180.0, "basis": "x", "upper_bound": False}
    write_json(folder.plan, plan)
    for path in folder.trials.glob("*/status.json"):
        path.unlink()
    shown = plan_and_actual(read_results(folder.path)).shown
    assert shown.set_index("Quantity")["Actual / planned"]["wall clock"] == "—"
    assert "nan" not in shown.to_string()


def test_the_plan_of_an_extended_sweep_says_so(folder: RunFolder) -> None:
    line = {"arm": "pixelcnn", "stage": "search", "trials": 6, "steps": 600, "seconds": 60.0}
    for extended in (True, False):
        write_json(folder.plan, {"format": 1, "lines": [line], "basis": "x", "extended": extended})
        notes = plan_and_actual(read_results(folder.path)).notes
        assert any("the plan is that of the sweep as it is now" in note for note in notes) == extended
