from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator import journal as journal_module
from orchestrator.journal import Journal


def play(storage):
    """A study with one trial in each state."""
    study = optuna.create_study(study_name="arm/search", storage=storage, sampler=optuna.samplers.RandomSampler(seed=3))
    for number in range(3):
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("schedule", ["constant", "decay"])
        for step in (5, 7, 11):
            trial.report(100 / step + number, step)
        if number < 2:
            study.tell(trial, None if number else 4.5, state=optuna.trial.TrialState.FAIL if number else None)
    return study


def seen(study):
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study.get_trials()]


def test_optuna_reads_it_as_its_own_and_goes_on_writing(tmp_path):
    ours = play(JournalStorage(Journal(tmp_path / "ours.journal")))
    theirs = play(JournalStorage(JournalFileBackend(str(tmp_path / "theirs.journal"))))
    read = optuna.load_study(
        study_name="arm/search", storage=JournalStorage(JournalFileBackend(str(tmp_path / "ours.journal")))
    )
    assert seen(ours) == seen(theirs) == seen(read)
    read.tell(2, 1.5)
    assert ours.best_value == 1.5  # what another process has written is read


def test_nothing_waits_for_the_disk_but_sync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(journal_module.os, "fsync", synced.append)
    journal = Journal(tmp_path / "study.journal")
    play(JournalStorage(journal))
    assert synced == []
    journal.sync()
    assert len(synced) == 1


def test_a_full_disk_is_an_error():
    journal = Journal(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        journal.append_logs([{"op_code": 0}])
