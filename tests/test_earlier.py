"""Trials of an earlier run as prior knowledge of a new one."""

import optuna
import pytest
from test_ledger import SWEEP, run_all

from orchestrator.ledger import Ledger
from orchestrator.runs import RunFolder, RunFolderError
from orchestrator.sweep import load_sweep

TEXT = SWEEP.replace("PRUNER", "none").replace("SAMPLER", "tpe")


@pytest.fixture
def new_ledger(tmp_path):
    def open_(name, text=TEXT):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("name: study", f"name: {name}"))
        run = RunFolder(tmp_path / name)
        run.path.mkdir(parents=True, exist_ok=True)
        return Ledger(run, load_sweep(path))

    return open_


def later(tmp_path, text=TEXT):
    return text.replace("seed: 3", f"seed: 4, from: {tmp_path / 'old'}")


def test_the_sampler_knows_the_trials_of_the_earlier_run(new_ledger, tmp_path):
    old = new_ledger("old")
    run_all(old)
    ledger = new_ledger("new", later(tmp_path))
    ledger = new_ledger("new", later(tmp_path))  # started twice: told once
    found = ledger.studies["pixeliqn", "search"].trials
    expected = old.studies["pixeliqn", "search"].trials
    assert [(trial.params, trial.values, trial.distributions) for trial in found] == [
        (trial.params, trial.values, trial.distributions) for trial in expected
    ]
    assert ledger.issued("pixeliqn", "search") == 0  # they do not use up this sweep's trials
    order = run_all(ledger)
    assert [item.number for item in order if (item.arm, item.stage) == ("pixelcnn", "search")] == [5, 6, 7, 8, 9]
    finals = {item.source for item in order if item.stage == "final"}
    assert finals <= {5, 6, 7, 8, 9}
    assert ledger.complete


def test_only_trials_that_this_sweep_could_have_made_are_comparable(new_ledger, tmp_path):
    run_all(new_ledger("old"))
    other = later(tmp_path).replace("steps: 6", "steps: 10")
    with pytest.raises(RunFolderError, match=r"holds 10 search trials that ended, but none that this sweep could"):
        new_ledger("new", other)
    narrow = later(tmp_path).replace("loss.kappa: [0.0, 0.002]", "loss.kappa: [0.0, 0.5]")
    found = new_ledger("narrow", narrow).studies["pixeliqn", "search"].trials
    assert 0 < len(found) < 5
    assert {trial.params["loss.kappa"] for trial in found} == {0.0}


def test_a_missing_run_is_one_clear_error(new_ledger, tmp_path):
    with pytest.raises(RunFolderError, match=r"no such run folder"):
        new_ledger("new", later(tmp_path))


def test_pruned_and_diverged_trials_are_known_as_such(new_ledger, tmp_path):
    old = new_ledger("old")
    run_all(old)
    old.run.trial("pixelcnn-search-1").update_status(state="pruned")
    old.run.trial("pixelcnn-search-2").update_status(state="diverged")
    old.run.trial("pixelcnn-search-3").update_status(state="failed", cause="KeyError")
    states = [trial.state for trial in new_ledger("new", later(tmp_path)).studies["pixelcnn", "search"].trials]
    pruned, complete = optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE
    assert states == [complete, pruned, pruned, complete]
