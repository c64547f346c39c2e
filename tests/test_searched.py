"""What a figure or table makes of a parameter is what the space says of it, not how many values were tried."""

import json
import re

import pytest
from run_folders import record, write_sweep, write_trial

from orchestrator.runs import RunFolder
from orchestrator.space import Space
from reports.analysis import outcomes
from reports.coordinates import axes_of
from reports.curves import curve_frame, trained_part
from reports.results import Results, read_results
from reports.search_figures import effect_figures
from reports.search_tables import choice_table
from reports.searched import Scale, scales, searched, space_table
from reports.verdict import compare

SPACE = {
    "optimizer.name": {
        "adam": {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}},
        "sgd": {"optimizer.lr": {"low": 1e-3, "high": 1.0, "log": True}},
    },
    "model.layers": {"low": 2, "high": 5},
    "loss.kappa": [0.0, 0.002],
}


def few_trials(path) -> Results:
    """Eight trials of one arm: as many learning rates, three numbers of layers."""
    folder, space = RunFolder(path), Space.from_dict(SPACE).to_dict()
    write_sweep(folder, arms=("pixeliqn",))
    content = json.loads(folder.sweep_json.read_text())
    content["sweep"]["arms"]["pixeliqn"]["space"] = space
    folder.sweep_json.write_text(json.dumps(content))
    for number in range(8):
        params = {"optimizer.name": ["adam", "sgd"][number % 2], "optimizer.lr": 10 ** (-3.5 + number / 3)}
        params |= {"model.layers": 2 + number % 3, "loss.kappa": [0.0, 0.002][number // 4]}
        write_trial(folder, "pixeliqn", "search", number, [record("pixeliqn", number, 600, 512)], params=params)
    return read_results(path)


def test_a_range_is_a_range_with_few_trials_too(tmp_path):
    results = few_trials(tmp_path / "run")
    assert scales(results, "pixeliqn") == {
        "optimizer.name": Scale(False, None),
        "optimizer.lr": Scale(True, True),
        "model.layers": Scale(False, False),
        "loss.kappa": Scale(False, None),
    }
    listed = choice_table(results, "pixeliqn").data
    assert listed["parameter"].unique().tolist() == ["optimizer.name", "model.layers", "loss.kappa"]
    axes = {
        axis["name"]: axis
        for axis in axes_of(outcomes(results, "pixeliqn"), results.objective, scales(results, "pixeliqn"))
    }
    assert axes["optimizer.lr"]["positions"] == pytest.approx([i / 7 for i in range(8)])  # evenly on the logarithm
    assert len(axes["optimizer.lr"]["marks"]) == 3
    svg = effect_figures(results, tmp_path)["pixeliqn"].svg
    assert "0.00316" not in re.sub(r"<title>.*?</title>", "", svg, flags=re.S)  # no label for each learning rate


def test_the_space_as_people_read_it(tmp_path):
    results = few_trials(tmp_path / "run")
    rates = [one for one in searched(results, "pixeliqn") if one.name == "optimizer.lr"]
    assert [(one.when, one.words) for one in rates] == [
        ("optimizer.name = adam", "0.0001 to 0.1, logarithmic"),
        ("optimizer.name = sgd", "0.001 to 1, logarithmic"),
    ]
    assert space_table(results).shown["Values"].tolist()[0] == "adam, sgd"


def test_untrained_scores_stretch_no_axis(finished):
    results = read_results(finished.path)
    frame = curve_frame(results, results.objective)
    assert set(frame["step"]) - set(trained_part(frame)["step"]) == {0}
    flat = frame.assign(low=frame["value"] % 7 + 50, high=frame["value"] % 7 + 51)  # no worse untrained than trained
    assert len(trained_part(flat)) == len(flat)


def test_the_share_of_time_is_that_of_the_clocks_at_these_steps(finished):
    (pair,) = compare(read_results(finished.path)).pairs
    assert (pair.better, pair.reached_at) == ("pixeliqn", 750 / 1500)
    clocks = [0.06 * 750 + 2.0 * (1 + 750 // 200), 0.05 * 1500 + 2.0 * (1 + 1500 // 200)]
    assert pair.reached_time == pytest.approx(clocks[0] / clocks[1])
