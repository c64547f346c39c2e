import re

import pytest
from run_folders import params_of, record, write_trial

from orchestrator.runs import Run
from reports.analysis import Outcome
from reports.coordinates import ABSENT, MOST, axes_of, parallel_figures
from reports.results import Metric, read_results

FD = Metric("fd_lite0", True)


def outcome(number, value, **params):
    run = Run("a", "search", number, {}, [], "completed", params=params)
    return Outcome(number, value, run)


def test_positions_on_the_axes():
    found = [
        outcome(0, 8.0, name="adam", kappa=0.0, lr=1e-4),
        outcome(1, 2.0, name="sgd", kappa=0.01, momentum=0.9, lr=1e-2),
        outcome(2, 5.0, name="adam", kappa=0.002, lr=1e-3),
        *(outcome(i, 4.0 + i / 100, name="adam", kappa=0.0, lr=3e-3 + i * 1e-5) for i in range(3, 13)),
    ]
    axes = {axis["name"]: axis for axis in axes_of(found, FD)}
    assert list(axes) == ["name", "kappa", "lr", "fd_lite0"]  # one value of momentum is no choice
    assert axes["name"]["positions"][:3] == [0, 1, 0]
    assert axes["kappa"]["positions"][:3] == [0, 1, 0.5]  # evenly: 0 has no place on a logarithmic axis
    assert axes["lr"]["positions"][:3] == pytest.approx([0, 1, 0.5])  # logarithmic
    assert axes["fd_lite0"]["positions"][:3] == pytest.approx([0, 1, 0.5])  # linear up to a ratio of 4, best at the top
    assert (1.0, "2") in axes["fd_lite0"]["marks"]


def test_a_parameter_that_some_trials_lack_has_a_place_for_them():
    found = [outcome(0, 1.0, m=0.0), outcome(1, 2.0, m=0.9), outcome(2, 3.0)]
    (axis, _) = axes_of(found, FD)
    assert axis["positions"] == [0, 1, None]
    assert (ABSENT, "none") in axis["marks"]


def test_a_line_for_each_trial_up_to_a_limit(folder, tmp_path):
    for number in range(6, 6 + MOST + 20):
        history = [record("pixelcnn", number, 600, 512)]
        write_trial(folder, "pixelcnn", "search", number, history, params=params_of("pixelcnn", number))
    figures = parallel_figures(read_results(folder.path), tmp_path)
    assert list(figures) == ["pixelcnn"]  # pixeliqn has four trials
    titles = re.findall(r"<title>(pixelcnn-search-\d+)", figures["pixelcnn"].svg)
    assert len(titles) == MOST
    assert "pixelcnn-search-4" in titles  # the best
    assert f"{MOST} of {MOST + 24} completed" in figures["pixelcnn"].caption
