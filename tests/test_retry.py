"""Trials that are handed out again, over a real journal."""

import json
import shutil

import optuna
import pytest
from test_ledger import SWEEP, run_all, score, start, study, work

from orchestrator.ledger import Ledger
from orchestrator.retry import retry
from orchestrator.runs import FORMAT, RunFolder, RunFolderError, load_run, write_json
from orchestrator.sections import differences
from orchestrator.sweep import load_sweep


@pytest.fixture
def open_ledger(tmp_path):
    def open_():
        path = tmp_path / "study.yaml"
        path.write_text(SWEEP.replace("SAMPLER", "tpe").replace("PRUNER", "none"))
        run = RunFolder(tmp_path / "runs" / "study")
        run.path.mkdir(parents=True, exist_ok=True)
        sweep = load_sweep(path)
        head = {"format": FORMAT, "id": "0123", "name": "study", "created": 900.0, "command": "aiqn sweep study.yaml"}
        write_json(run.sweep_json, {**head, "finished": True, "sweep": sweep.to_dict()})
        return Ledger(run, sweep)

    return open_


def fail(ledger, cause="KeyError", until=None):
    """The next trial, which measures something where `until` is given, then fails; it is known by its id."""
    trial = ledger.next()
    work(ledger, trial, until or 0) if until else start(ledger, trial)
    ledger.run.trial(trial.id).update_status(state="failed", cause=cause, message="'x'")
    while ledger.close(trial.id) is not None:
        start(ledger, trial).update_status(state="failed", cause=cause, message="'x'")
    return trial


def test_what_failed_is_handed_out_again_as_it_was_and_the_sampler_learns_its_value(open_ledger):
    ledger = open_ledger()
    broken = [fail(ledger), fail(ledger, until=2), fail(ledger)]
    kept = ledger.next()
    work(ledger, kept)
    assert [trial.state.name for trial in study(ledger, "pixelcnn/search").trials] == ["FAIL", "FAIL"]
    (told, *more) = retry(ledger.run.path)
    assert told == f"{broken[0].id} (KeyError) is handed out again"
    assert more[-1] == "by the next start: aiqn sweep study.yaml"
    assert not ledger.run.read_sweep()["finished"]
    states = [trial.state.name for trial in study(ledger, "pixelcnn/search").trials]
    assert states == ["RUNNING", "RUNNING"]
    status = ledger.run.trial(broken[1].id).read_status()
    assert (status["state"], status["causes"], status["attempts"]) == ("running", ["KeyError"], 1)
    ledger = open_ledger()
    again = [ledger.next() for _ in broken]
    assert sorted(item.id for item in again) == sorted(item.id for item in broken)
    by_id = {item.id: item for item in broken}
    for item in again:
        before = by_id[item.id]
        assert (item.params, item.seed, item.config) == (before.params, before.seed, before.config)
        assert item.causes == ["KeyError"]
        work(ledger, item)
    run_all(ledger)
    assert ledger.complete
    for name in ("pixelcnn/search", "pixeliqn/search"):
        trials = study(ledger, name).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
        assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    first = study(ledger, "pixelcnn/search").trials[0]
    assert first.value == score(by_id["pixelcnn-search-0"], 6)
    assert first.user_attrs["outcome"]["causes"] == ["KeyError"]
    assert open_ledger().complete


def test_trials_are_chosen_by_name_or_cause_and_never_where_that_helps_nobody(open_ledger):
    ledger = open_ledger()
    bug, memory, killed = fail(ledger), fail(ledger, "out of GPU memory"), fail(ledger, "process killed")
    diverged = ledger.next()
    start(ledger, diverged).update_status(state="diverged", cause="not finite")
    ledger.close(diverged.id)
    done = ledger.next()
    work(ledger, done)
    path = ledger.run.path
    with pytest.raises(RunFolderError, match=f"saw {done.id}, expected trials that ended without a result: {bug.id}"):
        retry(path, [done.id])
    with pytest.raises(RunFolderError, match=r"no trial that ended of 'TypeError'; .*KeyError, not finite, out of GPU"):
        retry(path, cause="TypeError")
    assert retry(path, cause="process killed")[0].startswith(f"{killed.id} (process killed)")
    said = retry(path)
    assert said[0].startswith(f"{bug.id} (KeyError)")
    assert said[1] == "1 that failed of 'out of GPU memory' stay: --cause 'out of GPU memory'"
    with pytest.raises(RunFolderError, match="has no trial that failed"):
        retry(path)
    assert retry(path, [memory.id, diverged.id])[1].startswith(f"{diverged.id} (not finite)")
    ledger = open_ledger()
    assert {ledger.next().id for _ in range(4)} == {bug.id, memory.id, killed.id, diverged.id}
    causes = {trial: row.assignment.causes for trial, row in ledger.rows.items()}
    assert causes[killed.id] == ["process killed"] * 3
    assert causes[bug.id] == ["KeyError"]  # and nothing of a driver that ended
    start(ledger, ledger.rows[killed.id].assignment)
    assert ledger.close(killed.id) is not None  # its retries are counted anew


def test_a_run_that_is_driven_or_has_no_ledger_is_left_alone(open_ledger):
    ledger = open_ledger()
    fail(ledger)
    before = ledger.run.journal.read_bytes()
    with ledger.run.lock(), pytest.raises(RunFolderError, match="is in use by pid"):
        retry(ledger.run.path)
    assert ledger.run.journal.read_bytes() == before
    ledger.run.journal.unlink()
    with pytest.raises(RunFolderError, match=r"no ledger of trials.*aiqn sweep study.yaml"):
        retry(ledger.run.path)


@pytest.mark.parametrize("end", ["KeyError", "process killed", "completed"])
def test_a_trial_whose_folder_was_deleted_is_handed_out_again(open_ledger, end):
    ledger = open_ledger()
    lost = ledger.next() if end == "completed" else fail(ledger, end, until=4)
    if end == "completed":
        work(ledger, lost)
    run_all(ledger)
    assert ledger.complete
    shutil.rmtree(ledger.run.trial(lost.id).path)
    ledger = open_ledger()
    assert not ledger.complete
    again = ledger.next()
    assert (again.id, again.params, again.seed) == (lost.id, lost.params, lost.seed)
    work(ledger, again)
    run_all(ledger)
    assert ledger.complete
    assert load_run(ledger.run, lost.id).state == "completed"
    trial = study(ledger, "pixelcnn/search").trials[0]
    assert (trial.state.name, trial.value) == ("COMPLETE", score(lost, 6))
    assert trial.intermediate_values == {step: score(lost, step) for step in (2, 4, 6)}


def test_the_journal_that_was_reopened_is_an_ordinary_one(open_ledger):
    """Against Optuna's own reading of the same file with the ends of the chosen trials left out."""
    ledger = open_ledger()
    fail(ledger)
    work(ledger, ledger.next())
    lines = [json.loads(line) for line in ledger.run.journal.read_bytes().splitlines()]
    retry(ledger.run.path)
    after = [json.loads(line) for line in ledger.run.journal.read_bytes().splitlines()]
    missing = [line for line in lines if line not in after]
    assert [(line["op_code"], line["trial_id"], line["state"]) for line in missing] == [(6, 0, 3)]
    backend = optuna.storages.journal.JournalFileBackend(str(ledger.run.journal))
    names = [item.study_name for item in optuna.storages.JournalStorage(backend).get_all_studies()]
    assert names == ["pixelcnn/search", "pixelcnn/final", "pixeliqn/search", "pixeliqn/final"]


def test_how_many_may_fail_alike_is_free_and_earlier_runs_do_not_know_it(open_ledger):
    now = open_ledger().sweep.to_dict()
    before = {**now, "search": {key: value for key, value in now["search"].items() if key != "same_failures"}}
    assert differences(before, now) == []
    assert differences(now, {**now, "search": {**now["search"], "same_failures": 7}}) == []
