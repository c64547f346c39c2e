import json
import statistics
from dataclasses import replace

import pytest

from aiqn_core.config import ConfigError
from orchestrator.replay import parse_pruner, replay, replay_lines
from orchestrator.runs import FORMAT, RunFolder, RunFolderError, write_json

# step -> value of each trial; 10 seconds between evaluations
CURVES = {
    "a": [[9, 8, 7], [5, 4, 3], [9, 9, 9], [6, 5, 1], [8, 8, 8]],
    "b": [[4, 3, 2], [7, 6, 5], [3, 2.5, 1.5], [9, 8, 7], [1, 1, 1]],
}


@pytest.fixture
def run(tmp_path):
    return record(tmp_path, CURVES)


def record(tmp_path, recorded, name="study", cut=()):
    """A run folder with these curves by arm; those of (arm, number) in `cut` were pruned, the others completed."""
    run = RunFolder(tmp_path / name)
    run.path.mkdir()
    search = {"trials": 5, "objective": {"metric": "fd_lite0", "direction": "minimize"}}
    arm = {"evaluate": {"every": 100}, "train": {"steps": 300}}
    sweep = {"arms": {"a": arm, "b": arm}, "search": search, "final": None}
    write_json(run.sweep_json, {"format": FORMAT, "name": "study", "finished": True, "sweep": sweep})
    for arm, curves in recorded.items():
        for number, values in enumerate(curves):
            folder = run.trial(f"{arm}-search-{number}")
            folder.path.mkdir(parents=True)
            content = {"format": FORMAT, "config": {}, "params": {}, "seed": 0, "source": None, "provenance": {}}
            write_json(folder.config, content)
            records = [
                {"step": 100 * (i + 1), "time": 0.0, "seconds": 10.0 * (i + 1), "samples": 7, "fd_lite0": value}
                for i, value in enumerate(values)
            ]
            folder.append_metrics(records)
            folder.update_status(state="pruned" if (arm, number) in cut else "completed")
    return run


def test_without_a_pruner_everything_is_as_recorded(run):
    (one,) = replay(run.path, [{"name": "none"}], workers=1)
    assert (one.steps, one.share, one.pruned) == (3000, 1.0, 0)
    assert one.makespan == 300
    assert one.chosen == {"a": 1, "b": 1}
    assert one.regret == {"a": 0, "b": 0}
    assert replay(run.path, [{"name": "none"}], workers=2)[0].makespan == 150
    assert replay(run.path, [{"name": "none"}], workers=7)[0].makespan == 60


def by_hand(curves, startup):
    """The median rule on one worker: (steps, best); a trial is judged against those that completed.

    As in a sweep, the first three to come to a step are not judged there.
    """
    completed, lengths = [], []
    for values in curves:
        length = len(values)
        for index in range(len(values) - 1):
            judged = len(completed) >= startup and sum(other > index for other in lengths) + 1 >= 4
            if judged and min(values[: index + 1]) > statistics.median(v[index] for v in completed):
                length = index + 1
                break
        if length == len(values):
            completed.append(values)
        lengths.append(length)
    return 100 * sum(lengths), min(values[-1] for values in completed)


def test_the_median_rule_by_hand(run):
    """Each arm is a study of its own."""
    (one,) = replay(run.path, [{"name": "median", "n_startup_trials": 2, "n_warmup_steps": 0}], workers=1)
    found = {arm: by_hand(curves, 2) for arm, curves in CURVES.items()}
    assert one.steps == sum(steps for steps, _ in found.values()) < 3000
    assert one.chosen == {arm: best for arm, (_, best) in found.items()}
    assert one.pruned > 0


def test_a_trial_that_diverged_costs_its_steps_and_is_never_chosen(run):
    folder = run.trial("a-search-3")  # the best of its arm
    folder.update_status(state="diverged", cause="divergence")
    (one,) = replay(run.path, [{"name": "none"}])
    assert one.steps == 3000
    assert one.chosen["a"] == 3


def test_the_table_and_what_cannot_be_replayed(run, tmp_path):
    lines = replay_lines(replay(run.path, [{"name": "none"}, {"name": "asha", "min_resource": 100}]))
    assert lines[0].split()[:2] == ["pruner", "steps"]
    assert lines[1].startswith("none")
    assert lines[-1] == "Within 2% of the best of each arm for at most 25% of the steps: none."
    assert "asha min_resource=100" in lines[2]
    with pytest.raises(ConfigError, match="did you mean 'median'"):
        replay(run.path, [{"name": "meidan"}])
    assert parse_pruner("{name: asha, min_resource: 5}") == {"name": "asha", "min_resource": 5}
    for text in ("3", "[asha", "null"):
        with pytest.raises(ConfigError, match="expected a name or a mapping"):
            parse_pruner(text)
    empty = RunFolder(tmp_path / "empty")
    empty.path.mkdir()
    empty.sweep_json.write_text(json.dumps(run.read_sweep()))
    with pytest.raises(RunFolderError, match="no search trial has ended"):
        replay(empty.path, [{"name": "none"}])


def test_a_pruner_that_is_worth_it_is_named(run):
    replays = replay(run.path, [{"name": "none"}])
    cheap = replace(replays[0], pruner="cheap", share=0.2, regret={"a": 0.01, "b": 0.0})
    close = replace(cheap, pruner="close", regret={"a": 0.03, "b": 0.0})
    nothing = replace(cheap, pruner="nothing", regret={"a": None, "b": 0.0})
    assert replay_lines([*replays, cheap, close, nothing])[-1].endswith("of the steps: cheap.")


def test_a_replay_repeats_itself(run):
    """Also with brackets, which Optuna deals out by the name of the study."""
    settings = [{"name": "hyperband", "reduction_factor": 2, "min_resource": 100}]
    assert replay(run.path, settings, workers=1) == replay(run.path, settings, workers=1)


def test_successive_halving_has_the_rungs_of_a_sweep(run):
    """Optuna's own guess would be rungs at 3, 12, 48, ... and decide at every evaluation."""
    factor = {"name": "asha", "reduction_factor": 2}
    found = replay(run.path, [factor, {**factor, "min_resource": 100}, {**factor, "min_resource": 3}], workers=1)
    assert found[0].steps == found[1].steps
    assert found[0].pruned > 0
    few = replay(run.path, [{"name": "asha", "reduction_factor": 5}], workers=1)[0]
    assert few.pruned <= 2  # the first four to arrive are never stopped, in either arm


def crossing(count):
    """Curves whose order at the end is not that at the first evaluation: those that start worst end best."""
    order = [(7 * i + 3) % count for i in range(count)]
    return [[10.0 + i, 10.0, float(count - i)] for i in order]


MEDIAN = {"name": "median", "n_startup_trials": 2, "n_warmup_steps": 0}


def cut_by_hand(curves, startup=2):
    """The same curves as the median rule on one worker leaves them, and the numbers of those it cut."""
    kept, completed, cut = [], [], []
    for number, values in enumerate(curves):
        length = len(values)
        for index in range(len(values) - 1):
            arrived = sum(len(other) > index for other in kept) + 1
            judged = len(completed) >= startup and arrived >= 4
            if judged and min(values[: index + 1]) > statistics.median(v[index] for v in completed):
                length = index + 1
                cut.append(number)
                break
        if length == len(values):
            completed.append(values)
        kept.append(values[:length])
    return kept, cut


def test_a_search_that_pruned_tells_no_regret(tmp_path):
    """Recorded in full, the median pruner loses much; recorded under it, nobody can know what it lost."""
    whole = {"a": crossing(40), "b": [[5.0, 4.0, 3.0 + i] for i in range(11)]}
    kept, cut = cut_by_hand(whole["a"])
    assert 0 < len(cut) < 40
    full = replay(record(tmp_path, whole, "full").path, [{"name": "none"}, MEDIAN], workers=1)
    assert full[0].regret == {"a": 0.0, "b": 0.0}
    assert full[1].regret["a"] == min(values[-1] for values in kept if len(values) == 3) - 1 > 1  # the best is 1 ...
    assert full[1].pruned == len(cut)
    assert full[1].cut == full[1].beyond == {"a": 0, "b": 0}

    short = record(tmp_path, whole | {"a": kept}, "short", {("a", number) for number in cut})
    none, median = replays = replay(short.path, [{"name": "none"}, MEDIAN], workers=1)
    assert none.curves == {"a": 40, "b": 11}
    assert none.cut == median.cut == {"a": len(cut), "b": 0}
    assert none.beyond == {"a": len(cut), "b": 0}  # without a pruner they all go on, nobody knows where to
    assert median.beyond == {"a": 0, "b": 0}  # it stops each where it was stopped
    assert none.regret == median.regret == {"a": None, "b": 0.0}
    assert (median.steps, median.pruned, median.chosen) == (full[1].steps, len(cut), full[1].chosen)

    lines = replay_lines(replays)
    assert lines[1].split()[:5] == ["none", "≥", f"{none.steps:,}", "≥", "100%"]
    assert lines[1].rstrip().endswith(f"{none.chosen['a']:.4g} or better (unknown)  3 (0.0%)")
    assert lines[2].split()[:2] == ["median", "n_startup_trials=2"]
    assert "≥" not in lines[2]
    assert lines[-2].startswith(
        f"{len(cut)} of 51 curves were cut short by the recorded search ({len(cut)} of 40 in a)"
    )
    assert lines[-1].endswith("of the steps: cannot be told from curves that were cut short.")
    assert not any("cut short" in line or "≥" in line for line in replay_lines(full))


def test_a_trial_that_was_stopped_by_hand_is_cut_short_too(run):
    run.trial("b-search-4").update_status(state="stopped", cause="asked to stop")
    (one,) = replay(run.path, [{"name": "none"}])
    assert one.cut == one.beyond == {"a": 0, "b": 1}
    assert one.regret == {"a": 0.0, "b": None}
