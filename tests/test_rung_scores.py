"""Evaluations at rungs with fewer samples: their names, the numbers of a training with so few, and who is parked."""

import functools

import pytest
from test_ledger import open_ledger, start  # noqa: F401 (a fixture)
from test_parking import PROMOTE, RUNGS, TEXT, expected, score

from aiqn_core.config import ConfigError, TrainConfig
from aiqn_core.metric import judged_by
from aiqn_core.training import train
from orchestrator.causes import End
from orchestrator.runs import load_runs
from reports.results import last_value

TIMES = ("loss", "seconds", "evaluate_seconds")
IMAGES = {"every": 7, "samples": 12, "splits": 3, "size": 64, "reference": 50}


def config(**evaluate):
    mapping = {
        "data": "gaussian2d",
        "model": {"name": "made", "hidden": [5]},
        "train": {"steps": 7, "batch_size": 3},
        "evaluate": {"every": 3, "samples": 31, "reference": 60, "initial": True, **evaluate},
    }
    return TrainConfig.from_dict(mapping)


def measured(settings):
    """step -> scores of a training."""
    found = {progress.step: progress.metrics for progress in train(settings) if "samples" in progress.metrics}
    return {step: {k: v for k, v in metrics.items() if k not in TIMES} for step, metrics in found.items()}


def test_before_the_end_fewer_samples_are_scored_under_names_of_their_own():
    found = measured(config(rungs={"samples": 11}))
    many, few = measured(config()), measured(config(samples=11))
    assert list(found) == [0, 3, 6, 7]
    assert found[0] == many[0]  # the untrained model is laid beside the trained one
    assert found[7] == many[7]
    for step in (3, 6):
        assert "energy_distance" not in found[step]
        own = {key.removeprefix("rung_"): value for key, value in found[step].items()}
        assert own == few[step]
        assert own["samples"] == 11
        assert own["energy_distance"] != many[step]["energy_distance"]


def test_what_a_record_says_to_judge_a_trial_by():
    assert judged_by({"fd": 3.0, "rung_fd": 5.0}, "fd") == 3.0
    assert judged_by({"fd": None, "rung_fd": 5.0}, "fd") == 5.0
    assert judged_by({"loss": 1.0}, "fd") is None


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ({"smaples": 5}, "evaluate.rungs"),
        ({"samples": 2}, "evaluate.rungs.samples: saw 2, expected"),
        (11, "evaluate.rungs: saw 11"),
    ],
)
def test_settings_that_are_wrong(rungs, message):
    with pytest.raises(ConfigError, match=message):
        config(rungs=rungs)


def test_fewer_samples_than_parts_of_the_inception_score_are_fewer_parts():
    from aiqn_core.rung_scores import at_step

    settings = TrainConfig.from_dict({"train": {"steps": 21}, "evaluate": IMAGES | {"rungs": {"samples": 3}}})
    early = at_step(settings, 7)
    assert (early.evaluate.samples, early.evaluate.splits, early.evaluate.rungs) == (3, 3, None)
    assert at_step(settings, 21) is None
    assert at_step(settings, 0) is None


@pytest.fixture
def promoting(open_ledger):  # noqa: F811
    text = TEXT.replace("every: 3,", "every: 3, rungs: {samples: 5},")
    return functools.partial(open_ledger, pruner=PROMOTE, text=text)


def test_rungs_judge_by_scores_of_few_samples_and_winners_are_those_of_many(promoting):
    """The made-up scores of few samples are those by which a loop of halving parks; those of many are far lower."""
    ledger = promoting()
    while (item := ledger.next()) is not None:
        folder, steps = start(ledger, item), item.config["train"]["steps"]
        assert (item.config["evaluate"]["rungs"] is None) == (item.stage == "final")
        done = folder.last_step() or 0
        for step in (*range(3, steps, 3), steps):
            cheap = item.stage == "search" and step < steps
            name, value = ("rung_fd_lite0", score(item, step)) if cheap else ("fd_lite0", score(item, step) - 50)
            record = {"step": step, "time": float(step), name: value, "samples": 5}
            if step > done:
                folder.append_metrics([record])
            if (state := ledger.report(item.id, record)) is not None:
                ledger.close(item.id, End(state))
                break
        else:
            folder.update_status(state="completed", step=steps)
            ledger.close(item.id)
    assert ledger.complete
    wanted = expected(ledger)
    for run in load_runs(ledger.run.path):
        if run.stage == "final":
            continue
        assert run.history[-1]["step"] == wanted[run.id]
        assert [step for step, _ in run.judged("fd_lite0")] == list(range(3, wanted[run.id] + 1, 3))
        value = last_value(run, "fd_lite0")  # what every table asks
        assert (value is None) == (run.state == "parked")
        assert value is None or value < 0
    for arm in ledger.sweep.arms:
        assert ledger.best[arm, "search"][0] < 0
        parked = [one for one in ledger.studies[arm, "search"].trials if one.last_step in RUNGS]
        assert all(one.value == one.intermediate_values[one.last_step] > 0 for one in parked)
        assert len(parked) >= 8
