import pytest

from orchestrator.outcome import RequestError
from orchestrator.runs import RunFolder, write_json
from orchestrator.trial_lines import diff_lines, log_text


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "study")


def test_the_log_is_followed_until_the_trial_has_ended(run, record_trial):
    folder = record_trial(run, "cnn-search-0", "running")
    folder.log.write_text("one\n")
    turns = iter(["two\n", "thr\xe9e\n", ""])

    def sleep(seconds):
        text = next(turns)
        with folder.log.open("a", encoding="utf-8") as file:
            file.write(text)
        if not text:
            folder.update_status(state="completed")

    assert list(log_text(folder.path, follow=True, sleep=sleep)) == ["one\n", "two\n", "thr\xe9e\n"]
    assert list(log_text(folder.path)) == ["one\ntwo\nthr\xe9e\n"]


def test_what_was_written_as_the_trial_ended_is_shown_too(run, record_trial):
    folder = record_trial(run, "cnn-search-0", "running")

    def end(seconds):
        folder.log.write_text("the reason\n")
        folder.update_status(state="failed")

    assert list(log_text(folder.path, follow=True, sleep=end)) == ["the reason\n"]


def test_no_trial_and_no_log_are_one_clear_line(run, record_trial, tmp_path):
    with pytest.raises(RequestError, match=r"nowhere: no such trial"):
        list(log_text(tmp_path / "nowhere"))
    with pytest.raises(RequestError, match=r"log\.txt: no such file"):
        list(log_text(record_trial(run, "cnn-search-0").path))
    with pytest.raises(RequestError, match="no such trial, or it has not started"):
        diff_lines(tmp_path, tmp_path)


def config(folder, lr, **more):
    recorded = folder.read_config()
    recorded["config"] = {"optimizer": {"name": "adam", "lr": lr}, "train": {"steps": 4}, **more}
    write_json(folder.config, recorded)


def test_settings_that_differ_come_first_then_the_scores_side_by_side(run, tmp_path, record_trial):
    first, second = (
        record_trial(run, "cnn-search-0"),
        record_trial(run, "iqn-search-11", "failed", steps=(2,), cause="x"),
    )
    config(first, 0.001)
    config(second, 0.25, seed=5)
    second.append_metrics([{"step": 3, "time": 7.0, "loss": 0.5}])
    lines = [line.split() for line in diff_lines(first.path, second.path)]
    assert lines == [
        ["cnn-search-0", "iqn-search-11"],
        ["optimizer.lr", "0.001", "0.25"],
        ["seed", "-", "5"],
        [],
        ["state", "completed", "failed", "x"],
        ["step", "4", "3"],
        ["loss", "0.25", "0.5"],
        ["fd_lite0", "25", "50"],
    ]
    other = record_trial(RunFolder(tmp_path / "again"), "cnn-search-0")
    config(other, 0.001)
    lines = [line.split() for line in diff_lines(first.path, other.path)]
    assert lines[:2] == [["study/cnn-search-0", "again/cnn-search-0"], ["no", "setting", "differs"]]
