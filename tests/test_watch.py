from orchestrator.runs import RunFolder
from orchestrator.watch import Watch


def test_only_what_changed_is_read_again(tmp_path, record_trial):
    run = RunFolder(tmp_path / "study")
    watch = Watch(run)
    assert list(watch.changed()) == []
    record_trial(run, "cnn-search-0", steps=(2, 5))
    folder = record_trial(run, "cnn-search-1", state="running", steps=(2,))
    (run.trials / ".hidden").mkdir()
    assert [(item.id, len(item.history)) for item in watch.changed()] == [("cnn-search-0", 2), ("cnn-search-1", 1)]
    assert list(watch.changed()) == []
    folder.append_metrics([{"step": 5, "time": 7.0, "fd_lite0": 3.0}])
    assert [(item.id, item.state, len(item.history)) for item in watch.changed()] == [("cnn-search-1", "running", 2)]
    folder.update_status(state="completed")
    assert [(item.id, item.state) for item in watch.changed()] == [("cnn-search-1", "completed")]
    assert list(watch.changed()) == []


def test_a_trial_without_a_readable_configuration_is_looked_at_again(tmp_path, record_trial):
    run = RunFolder(tmp_path / "study")
    folder = record_trial(run, "cnn-search-0")
    whole = folder.config.read_bytes()
    folder.config.write_bytes(whole[:11])
    watch = Watch(run)
    assert list(watch.changed()) == []
    folder.config.write_bytes(whole)
    assert [item.id for item in watch.changed()] == ["cnn-search-0"]
