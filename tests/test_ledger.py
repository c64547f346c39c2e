"""The ledger over a real journal, with workers that only write what a trial would have measured."""

import functools
import itertools
import random
import re
from dataclasses import replace

import optuna
import pytest

from orchestrator.causes import End, State
from orchestrator.ledger import Ledger, repair, told
from orchestrator.recovery import intact
from orchestrator.runs import FORMAT, RunFolder, load_runs, write_json
from orchestrator.sweep import load_sweep

SWEEP = """
name: study
train: {steps: 6, batch_size: 5}
evaluate: {every: 2, samples: 20}
search: {trials: 5, sampler: SAMPLER, pruner: PRUNER, objective: {metric: fd_lite0, direction: minimize}, seed: 3}
arms:
  pixelcnn:
    model: {name: pixelcnn}
    space:
      optimizer.name: [adam, rmsprop]
      optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
  pixeliqn:
    model: {name: pixeliqn}
    space:
      optimizer.name:
        adam: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
        sgd: {optimizer.lr: {low: 1.0e-2, high: 1.0, log: true}, optimizer.momentum: {low: 0.0, high: 0.99}}
      loss.kappa: [0.0, 0.002]
final: {top: 2, seeds: [0, 1, 7], steps: 8, evaluate: {every: 4}}
"""


@pytest.fixture
def open_ledger(tmp_path):
    def open_(sampler="random", pruner="none", text=SWEEP, folder="study"):
        path = tmp_path / "study.yaml"
        path.write_text(text.replace("SAMPLER", sampler).replace("PRUNER", pruner))
        run = RunFolder(tmp_path / "runs" / folder)
        run.path.mkdir(parents=True, exist_ok=True)
        return Ledger(run, load_sweep(path))

    return open_


def score(assignment, step):
    """A made-up curve: better with steps, best at a learning rate of 0.01."""
    lr = assignment.config["optimizer"]["lr"]
    return 100 / step + abs(lr - 0.01) * 10 + assignment.seed % 7 / 100


def start(ledger, assignment):
    folder = ledger.run.trial(assignment.id)
    folder.path.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "config": assignment.config, "params": assignment.params, "seed": assignment.seed}
    write_json(folder.config, {**content, "source": assignment.source, "provenance": {}})
    folder.update_status(state="running", attempts=folder.read_status().get("attempts", 0) + 1)
    return folder


def work(ledger, assignment, until=None):
    """Measure what a worker would and tell the ledger; True where it was pruned."""
    folder, steps = start(ledger, assignment), assignment.config["train"]["steps"]
    for step in range(
        assignment.config["evaluate"]["every"], (until or steps) + 1, assignment.config["evaluate"]["every"]
    ):
        record = {"step": step, "time": float(step), "fd_lite0": score(assignment, step)}
        if step not in {old["step"] for old in folder.read_history()}:
            folder.append_metrics([record])
        if ledger.report(assignment.id, record):
            ledger.close(assignment.id, End(State.PRUNED))
            return True
    if until is None:
        folder.update_status(state="completed")
        ledger.close(assignment.id)
    return False


def run_all(ledger):
    order = []
    while (assignment := ledger.next()) is not None:
        order.append(assignment)
        work(ledger, assignment)
    return order


def study(ledger, name):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(ledger.run.journal)))
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize("ended", [0, 3, 9, 10, 13, 22])
def test_it_knows_how_many_trials_could_be_trained_at_once(open_ledger, ended):
    ledger = open_ledger()
    for _ in range(ended):
        work(ledger, ledger.next())
    known = ledger.at_once
    handed = list(iter(ledger.next, None))  # until there is none, while none of them ends
    assert known == ledger.at_once == len(handed)
    for assignment in handed:
        start(ledger, assignment)
    assert open_ledger().at_once == len(handed)  # a driver that is killed leaves them to the next


def test_every_arm_gets_its_trials_in_turn_then_its_finals(open_ledger):
    ledger = open_ledger()
    order = run_all(ledger)
    search = [item for item in order if item.stage == "search"]
    assert [item.arm for item in search[:6]] == ["pixelcnn", "pixeliqn"] * 3
    assert sorted(item.id for item in search) == sorted(
        f"{arm}-search-{n}" for arm in ledger.sweep.arms for n in range(5)
    )
    assert ledger.complete
    assert ledger.next() is None
    for arm in ledger.sweep.arms:
        values = {item.number: score(item, 6) for item in search if item.arm == arm}
        best = sorted(values, key=values.get)[:2]
        finals = [item for item in order if item.stage == "final" and item.arm == arm]
        assert [(item.source, item.seed) for item in finals] == list(itertools.product(best, (0, 1, 7)))
        by_number = {item.number: item for item in search if item.arm == arm}
        for final in finals:
            assert final.params == by_number[final.source].params
            assert final.config["train"]["steps"] == 8
            assert final.config["evaluate"]["every"] == 4
            assert final.config["seed"] == final.seed


def test_the_journal_is_an_ordinary_optuna_study(open_ledger):
    ledger = open_ledger()
    order = run_all(ledger)
    loaded = study(ledger, "pixelcnn/search")
    assert [trial.state.name for trial in loaded.trials] == ["COMPLETE"] * 5
    for item in order:
        if (item.arm, item.stage) == ("pixelcnn", "search"):
            trial = loaded.trials[item.number]
            assert trial.value == score(item, 6)
            assert trial.intermediate_values == {step: score(item, step) for step in (2, 4, 6)}


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
@pytest.mark.parametrize("crash_after", [1, 4, 9, 13])
def test_a_driver_that_dies_loses_nothing_and_repeats_nothing(open_ledger, tmp_path, sampler, crash_after):
    undisturbed = {item.id: (item.params, item.seed, item.source) for item in run_all(open_ledger(sampler))}
    for path in sorted((tmp_path / "runs").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    ledger = open_ledger(sampler)
    told_before = []
    for _ in range(crash_after):
        told_before.append(ledger.next())
        work(ledger, told_before[-1])
    in_flight = [item for item in (ledger.next(), ledger.next()) if item]
    if in_flight:
        work(ledger, in_flight[0], until=2)  # one had begun, one had not, and then the driver is killed
    ledger = open_ledger(sampler)
    assert not ledger.complete
    again = run_all(ledger)
    causes = {item.id: item.causes for item in again}
    assert [causes[item.id] for item in in_flight] == [["driver ended"], []][: len(in_flight)]
    reissued = {item.id: replace(item, causes=[]) for item in again[: len(in_flight)]}
    assert reissued == {item.id: item for item in in_flight}  # same number, parameters, seed and configuration
    everything = told_before + again
    assert len({item.id for item in everything}) == len(everything) == 2 * (5 + 6)
    if sampler != "tpe":  # whose choices follow what was known when it chose
        assert {item.id: (item.params, item.seed, item.source) for item in everything} == undisturbed
    assert {trial.state.name for trial in study(ledger, "pixeliqn/search").trials} == {"COMPLETE"}


def shuffled(open_, flight, draw, pick):
    """The configurations of a sweep with `flight` trials at once; those that end fail, are killed or the driver is."""
    ledger, running, found = open_(), [], {}
    while True:
        while len(running) < flight and (item := ledger.next()) is not None:
            running.append(item)
            assert found.setdefault(item.id, item.params) == item.params  # also where it is handed out again
        if not running:
            return found
        item = running.pop(draw.randrange(len(running)) if pick is None else pick)
        fate = draw.choice(("completed", "completed", "completed", "KeyError", "process killed", "restart"))
        if fate == "restart":
            ledger, running = open_(), []
        elif fate == "completed":
            work(ledger, item)
        else:
            start(ledger, item).update_status(state="failed", cause=fate)
            running += [again for again in [ledger.close(item.id)] if again is not None]


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
@pytest.mark.parametrize(("flight", "pick"), [(2, 0), (3, -1), (8, None)])
def test_configurations_follow_from_their_numbers_whatever_becomes_of_the_others(open_ledger, sampler, flight, pick):
    """Against one that trains one after another: the oldest, the newest or any of them ends next."""
    text = SWEEP[: SWEEP.index("final:")].replace("trials: 5", "trials: 4")
    if sampler == "grid":
        text = re.sub(r"{low: ([^,]+), high: ([^,}]+)[^}]*}", r"[\1, \2]", text)
    one, other = (
        shuffled(functools.partial(open_ledger, sampler, text=text, folder=f"{count}"), count, random.Random(seed), how)
        for seed, (count, how) in enumerate([(1, 0), (flight, pick)])
    )
    assert len(one) == 8
    assert one == other
    for arm in ("pixelcnn", "pixeliqn"):
        own = [params for trial, params in one.items() if trial.startswith(f"{arm}-")]
        assert all(params not in own[:i] for i, params in enumerate(own))


def test_arms_of_one_space_get_the_same_quasi_random_configurations(open_ledger):
    """As sweeps/patches-trunk.yaml says; drawn at random, each arm has its own."""
    space = "{optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}}"
    text = SWEEP[: SWEEP.index("arms:")]
    text += f"arms:\n  one: {{model: pixelcnn, space: {space}}}\n  two: {{model: pixeliqn, space: {space}}}\n"
    for sampler, same in (("qmc", 5), ("random", 0)):
        ledger = open_ledger(sampler, text=text, folder=sampler)
        params = {item.id: item.params for item in run_all(ledger)}
        assert sum(params[f"one-search-{number}"] == params[f"two-search-{number}"] for number in range(5)) == same


def test_a_trial_that_ended_unseen_is_told_without_training_it_again(open_ledger):
    ledger = open_ledger()
    unseen, folder = ledger.next(), None
    folder = start(ledger, unseen)
    folder.append_metrics([{"step": step, "time": 1.0, "fd_lite0": score(unseen, step)} for step in (2, 4, 6)])
    folder.update_status(state="completed")
    ledger = open_ledger()
    assert unseen.id not in {item.id for item in run_all(ledger)}
    trial = study(ledger, "pixelcnn/search").trials[0]
    assert (trial.state.name, trial.value) == ("COMPLETE", score(unseen, 6))


def test_a_crash_between_asking_and_choosing_is_mended(open_ledger):
    ledger = open_ledger()
    ledger.studies["pixelcnn", "search"].ask()  # RUNNING, without parameters, and then the driver is killed
    order = run_all(open_ledger())
    assert order[0].id == "pixelcnn-search-0"
    assert set(order[0].params) == {"optimizer.name", "optimizer.lr"}
    assert len(order) == 22


def test_the_pruner_stops_trials_and_its_memory_survives(open_ledger):
    ledger = open_ledger(pruner="{name: median, n_startup_trials: 1, n_warmup_steps: 0}")
    for _ in range(6):
        work(ledger, ledger.next())
    ledger = open_ledger(pruner="{name: median, n_startup_trials: 1, n_warmup_steps: 0}")
    run_all(ledger)
    states = [trial.state.name for arm in ("pixelcnn", "pixeliqn") for trial in study(ledger, f"{arm}/search").trials]
    assert states.count("PRUNED") >= 2
    assert all(trial.state.name == "COMPLETE" for trial in study(ledger, "pixelcnn/final").trials)
    pruned = [
        number for number, trial in enumerate(study(ledger, "pixelcnn/search").trials) if trial.state.name == "PRUNED"
    ]
    for number in pruned:
        assert ledger.run.trial(f"pixelcnn-search-{number}").read_status()["state"] == "pruned"
    assert not set(pruned) & {winner.number for winner in ledger.winners("pixelcnn")}


def test_infrastructure_is_tried_again_and_then_given_up(open_ledger):
    ledger = open_ledger()
    trial = ledger.next()
    for _ in range(ledger.sweep.resources.retries):
        start(ledger, trial)
        again = ledger.close(trial.id)  # its process died: status still says running
        assert replace(again, causes=[]) == trial
    start(ledger, trial)
    assert ledger.close(trial.id) is None
    status = ledger.run.trial(trial.id).read_status()
    assert (status["state"], status["cause"], status["attempts"]) == ("failed", "process killed", 3)
    assert again.causes == ["process killed"] * 2
    assert study(ledger, "pixelcnn/search").trials[0].state.name == "FAIL"
    assert len(run_all(ledger)) == 21


@pytest.mark.parametrize(
    ("state", "cause", "value", "expected"),
    [
        ("completed", None, [5.0], "COMPLETE"),
        ("pruned", None, None, "PRUNED"),
        ("diverged", "not finite", None, "PRUNED"),
        ("failed", "out of GPU memory", None, "PRUNED"),
        ("failed", "process killed", None, "FAIL"),
        ("failed", "killed for memory", None, "PRUNED"),
        ("failed", "KeyError", None, "FAIL"),
        ("stopped", None, None, "FAIL"),
        ("completed", None, None, "FAIL"),
    ],
)
def test_what_the_sampler_is_told(state, cause, value, expected):
    assert told(End(State(state), cause), value).name == expected


def test_a_diverged_trial_ends_in_the_journal_and_is_no_winner(open_ledger):
    ledger = open_ledger()
    bad = ledger.next()
    start(ledger, bad).update_status(state="diverged", cause="not finite")
    ledger.close(bad.id)
    order = run_all(ledger)
    assert ledger.states["pixelcnn", "search"] == {"completed": 4, "diverged": 1}
    assert bad.number not in {item.source for item in order if item.arm == "pixelcnn"}
    trial = study(ledger, "pixelcnn/search").trials[bad.number]
    assert (trial.state.name, trial.value) == ("PRUNED", None)
    outcome = {"state": "diverged", "cause": "not finite", "attempts": 1, "causes": [], "step": 0}
    assert trial.user_attrs["outcome"] == outcome


def test_a_larger_search_adds_trials(open_ledger):
    run_all(open_ledger())
    ledger = open_ledger(
        text=SWEEP.replace("trials: 5", "trials: 7").replace("seeds: [0, 1, 7]", "seeds: [0, 1, 7, 8]")
    )
    order = run_all(ledger)
    assert [item.id for item in order if item.stage == "search"] == [
        f"{arm}-search-{number}" for number in (5, 6) for arm in ("pixelcnn", "pixeliqn")
    ]
    assert all(ledger.states[arm, "final"].total() >= 8 for arm in ledger.sweep.arms)


def test_a_new_winner_of_a_larger_search_gets_all_its_finals(open_ledger):
    before = SWEEP.replace("top: 2", "top: 1")
    run_all(open_ledger(text=before))
    first = {(item.source, item.seed) for item in finals_of(open_ledger(text=before), "pixelcnn")}
    ledger = open_ledger(text=before.replace("trials: 5", "trials: 40"))
    run_all(ledger)
    (winner,) = ledger.winners("pixelcnn")
    assert winner.number >= 5
    found = {(item.source, item.seed) for item in finals_of(ledger, "pixelcnn")}
    assert found == first | {(winner.number, seed) for seed in (0, 1, 7)}
    assert ledger.expected("pixelcnn", "final") == len(found) == 6
    assert ledger.complete
    assert open_ledger(text=before.replace("trials: 5", "trials: 40")).complete


def finals_of(ledger, arm):
    return [item for item in load_runs(ledger.run.path) if (item.arm, item.stage) == (arm, "final")]


def test_an_evaluation_that_is_said_again_is_not_judged_again(open_ledger):
    pruner = "{name: median, n_startup_trials: 1, n_warmup_steps: 0}"
    text = SWEEP.replace("seed: 3", "seed: 3, min_arrivals: 2")
    ledger = open_ledger(pruner=pruner, text=text)
    late, good = ledger.next(), None
    folder = start(ledger, late)
    for step in (2, 4):
        record = {"step": step, "time": float(step), "fd_lite0": 1000.0}
        folder.append_metrics([record])
        assert not ledger.report(late.id, record)  # nobody to compare with yet
    while (other := ledger.next()) is not None and good is None:
        work(ledger, other)
        good = other.id if other.arm == late.arm else None
    assert not ledger.report(late.id, {"step": 2, "time": 2.0, "fd_lite0": 1000.0})
    assert ledger.report(late.id, {"step": 4, "time": 4.0, "fd_lite0": 1000.0})
    ledger.close(late.id, End(State.PRUNED))
    assert folder.read_status()["step"] == 4


def test_a_pruned_trial_may_have_measured_more_than_was_heard_of(open_ledger):
    ledger = open_ledger()
    trial = ledger.next()
    folder = start(ledger, trial)
    folder.append_metrics([{"step": step, "time": 1.0, "fd_lite0": 9.0} for step in (2, 4)])
    folder.update_status(state="pruned", step=2)
    assert intact(folder, "pruned")
    folder.update_status(state="pruned", step=6)
    assert not intact(folder, "pruned")


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "wor', b"\xff"])
def test_a_torn_journal_is_mended(open_ledger, tail):
    ledger = open_ledger()
    work(ledger, ledger.next())
    intact = ledger.run.journal.read_bytes()
    ledger.run.journal.write_bytes(intact + tail)
    (ledger.run.path / "study.journal.lock").symlink_to("study.journal")
    repair(ledger.run.journal)
    assert ledger.run.journal.read_bytes() == intact
    assert len(run_all(open_ledger())) == 21


def test_mlflow_runs_are_kept_beside_the_trials(open_ledger):
    ledger = open_ledger()
    ledger.remember_runs({"pixelcnn-search-0": "aa", "pixelcnn-search-11": "bb", "pixelcnn-final-0": "cc"})
    assert study(ledger, "pixelcnn/search").user_attrs["mlflow_runs"] == {"0": "aa", "11": "bb"}
    assert study(ledger, "pixelcnn/final").user_attrs["mlflow_runs"] == {"0": "cc"}


def test_finals_start_once_their_arm_has_searched_while_the_other_still_does(open_ledger):
    ledger = open_ledger()
    held = []  # every trial of pixeliqn is slow
    while (assignment := ledger.next()) is not None and assignment.stage == "search":
        if assignment.arm == "pixeliqn":
            held.append(assignment)
        else:
            work(ledger, assignment)
    assert (assignment.arm, assignment.stage) == ("pixelcnn", "final")
    assert len(held) == 4  # and one is not handed out yet
    assert ledger.states["pixeliqn", "search"].total() == 0  # none of them has ended


def test_of_equal_trials_the_earlier_goes_on_and_a_pruned_one_never(open_ledger):
    ledger = open_ledger()
    # The pruned trial has the best value of all, two tie for the second place of the finals.
    values = {0: 7.0, 1: 3.0, 2: 1.0, 3: 5.0, 4: 5.0}
    finals = []
    while (assignment := ledger.next()) is not None:
        if assignment.stage == "final":
            finals.append((assignment.arm, assignment.source))
            continue
        folder = start(ledger, assignment)
        ledger.report(assignment.id, {"step": 6, "time": 0.0, "fd_lite0": values[assignment.number]})
        folder.update_status(state="completed")
        ledger.close(assignment.id, End(State.PRUNED) if assignment.number == 2 else None)
    assert sorted(set(finals)) == [("pixelcnn", 1), ("pixelcnn", 3), ("pixeliqn", 1), ("pixeliqn", 3)]
    assert len(finals) == 12


@pytest.mark.parametrize("share", [0.03, 0.21, 0.48, 0.77, 0.99])
def test_a_journal_cut_short_is_filled_in_from_the_folders(open_ledger, share):
    ledger = open_ledger()
    before = {item.id: item for item in run_all(ledger)}
    content = ledger.run.journal.read_bytes()
    ledger.run.journal.write_bytes(content[: int(len(content) * share)])
    ledger = open_ledger()
    assert run_all(ledger) == []  # every trial has its numbers: none is trained again
    assert ledger.complete
    for (arm, stage), found in ((key, study(ledger, "/".join(key))) for key in ledger.studies):
        assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * (5 if stage == "search" else 6)
        for trial in found.trials:
            item = before[f"{arm}-{stage}-{trial.number}"]
            assert trial.value == score(item, item.config["train"]["steps"])
            assert (trial.user_attrs.get("source"), trial.user_attrs.get("seed", item.seed)) == (item.source, item.seed)


def test_a_journal_with_a_torn_line_inside_is_cut_there(open_ledger):
    ledger = open_ledger()
    for _ in range(6):
        work(ledger, ledger.next())
    lines = ledger.run.journal.read_bytes().splitlines(keepends=True)
    ledger.run.journal.write_bytes(b"".join([*lines[:30], lines[30][:17] + b"\n", *lines[31:]]))
    assert len(run_all(open_ledger())) == 22 - 6
    assert ledger.run.journal.with_name("study.journal.torn").exists()


@pytest.mark.parametrize("name", ["metrics", "config", "status"])
def test_the_folder_of_an_ended_trial_that_lost_something_is_mended(open_ledger, name):
    ledger = open_ledger()
    run_all(ledger)
    folder, journal = ledger.run.trial("pixelcnn-search-3"), ledger.run.journal
    whole, told_before = folder.read_history(), journal.read_bytes()
    path = getattr(folder, name)
    path.write_bytes(path.read_bytes()[:-9])
    ledger = open_ledger()
    assert not ledger.complete
    assert [item.id for item in run_all(ledger)] == ["pixelcnn-search-3"]
    assert ledger.complete
    assert folder.read_history() == whole
    assert ledger.states["pixelcnn", "search"] == {"completed": 5}
    assert journal.read_bytes() == told_before


def test_a_pruned_trial_is_mended_up_to_where_it_was_stopped(open_ledger):
    pruner = "{name: median, n_startup_trials: 1, n_warmup_steps: 0}"
    ledger = open_ledger(pruner=pruner, text=SWEEP.replace("seed: 3", "seed: 3, min_arrivals: 2"))
    run_all(ledger)
    pruned = next(row.number for row in study(ledger, "pixelcnn/search").trials if row.state.name == "PRUNED")
    folder = ledger.run.trial(f"pixelcnn-search-{pruned}")
    whole = folder.read_history()
    folder.metrics.unlink()
    ledger = open_ledger(pruner=pruner, text=SWEEP.replace("seed: 3", "seed: 3, min_arrivals: 2"))
    run_all(ledger)
    assert folder.read_history() == whole
    assert folder.read_status()["state"] == "pruned"


def test_longer_finals_go_on_in_their_folders(open_ledger):
    run_all(open_ledger())
    ledger = open_ledger(text=SWEEP.replace("steps: 8", "steps: 12"))
    order = run_all(ledger)
    assert sorted(item.id for item in order) == sorted(
        f"{arm}-final-{n}" for arm in ledger.sweep.arms for n in range(6)
    )
    assert {ledger.run.trial(item.id).last_step() for item in order} == {12}


def test_attempts_and_their_causes_are_kept(open_ledger):
    ledger = open_ledger()
    trial = ledger.next()
    for cause in ("preempted", "node lost", "silent", "preempted", "process killed"):  # two of them count
        start(ledger, trial)
        assert ledger.close(trial.id, End(State.FAILED, cause)) is not None
    assert [each["cause"] for each in ledger.rows[trial.id].attempts][:2] == ["preempted", "node lost"]
    again = open_ledger().next()  # the sixth attempt had not begun when the driver ended
    assert again.causes == ["preempted", "node lost", "silent", "preempted", "process killed"]
    start(ledger, trial)
    again = open_ledger().next()
    causes = ["preempted", "node lost", "silent", "preempted", "process killed", "driver ended"]
    assert (again.id, again.causes) == (trial.id, causes)


def test_an_exception_and_a_configuration_fault_are_not_tried_again(open_ledger):
    ledger = open_ledger()
    for cause, state in (("KeyError", "FAIL"), ("out of GPU memory", "PRUNED"), ("configuration", "PRUNED")):
        trial = ledger.next()
        start(ledger, trial).update_status(state="failed", cause=cause)
        assert ledger.close(trial.id) is None
        assert study(ledger, f"{trial.arm}/search").trials[trial.number].state.name == state


def test_data_that_are_missing_on_one_node_are_tried_again(open_ledger):
    ledger = open_ledger()
    trial = ledger.next()
    for _ in range(ledger.sweep.resources.retries):
        start(ledger, trial).update_status(state="failed", cause="data missing", message="no data")
        assert ledger.close(trial.id).causes[-1] == "data missing"
    # nor is it given up when its retries are used up, for it is not to blame: what follows is the driver's to say
    start(ledger, trial).update_status(state="failed", cause="data missing", message="no data")
    assert ledger.close(trial.id).id == trial.id
    assert ledger.run.trial(trial.id).read_status()["state"] == "running"
    assert study(ledger, "pixelcnn/search").trials[0].state.name == "RUNNING"
    for more in range(ledger.sweep.resources.retries + 1):  # all its own retries are left
        start(ledger, trial).update_status(state="failed", cause="process killed")
        assert (ledger.close(trial.id) is None) == (more == ledger.sweep.resources.retries)


ENQUEUED = SWEEP.replace(
    "seed: 3",
    "seed: 3, enqueue: {pixelcnn: [{optimizer.lr: 0.05, optimizer.name: rmsprop}, {optimizer.lr: 0.0123}], pixeliqn:"
    " [{optimizer.name: sgd, optimizer.lr: 0.5}]}",
)


def test_known_configurations_come_first_and_more_can_be_added(open_ledger):
    ledger = open_ledger(text=ENQUEUED)
    order = [ledger.next() for _ in range(4)]
    params = {item.id: item.params for item in order}
    assert params["pixelcnn-search-0"] == {"optimizer.name": "rmsprop", "optimizer.lr": 0.05}
    assert params["pixelcnn-search-1"]["optimizer.lr"] == 0.0123
    assert params["pixeliqn-search-0"].items() >= {"optimizer.name": "sgd", "optimizer.lr": 0.5}.items()
    assert params["pixeliqn-search-0"].keys() >= {"optimizer.momentum", "loss.kappa"}  # the sampler's
    more = ENQUEUED.replace("{optimizer.lr: 0.0123}]", "{optimizer.lr: 0.0123}, {optimizer.lr: 0.0321}]")
    ledger = open_ledger(text=more)
    ids = {item.id: item.params for item in run_all(ledger)}
    assert ids["pixelcnn-search-1"] == params["pixelcnn-search-1"]
    assert ids["pixelcnn-search-2"]["optimizer.lr"] == 0.0321
    assert len(study(ledger, "pixelcnn/search").trials) == 5


def test_the_second_to_arrive_is_not_stopped_for_being_worse_than_one(open_ledger):
    asha = "{name: asha, min_resource: 2, reduction_factor: 2}"
    for arrivals, expected in ((None, 0), (1, 1)):
        text = SWEEP.replace("seed: 3", f"seed: 3, min_arrivals: {arrivals or 4}")
        ledger = open_ledger(pruner=asha, text=text.replace("name: study", f"name: study{arrivals}"))
        ledger.run.journal.unlink()
        ledger = open_ledger(pruner=asha, text=text)
        first, _, second = ledger.next(), ledger.next(), ledger.next()
        assert first.arm == second.arm
        ledger.report(first.id, {"step": 2, "time": 1.0, "fd_lite0": 5.0})
        assert ledger.report(second.id, {"step": 2, "time": 1.0, "fd_lite0": 5.5}) == bool(expected)


SEVERAL = SWEEP.replace(
    "objective: {metric: fd_lite0, direction: minimize}", "objective: [{metric: fd_lite0}, {metric: is_lite0_mean}]"
)


def test_finals_of_several_objectives_are_those_that_nothing_beats(open_ledger):
    ledger = open_ledger(sampler="nsga2", text=SEVERAL)
    values = {}
    while (item := ledger.next()) is not None:
        if item.stage == "final":
            continue  # of the arm that is ahead; left in the hands of a worker
        pair = (10 + 7 * item.number % 5, 3 * item.number % 5)  # distances to minimise, scores to maximise
        values[item.arm, item.number] = pair
        folder = start(ledger, item)
        folder.append_metrics([{"step": 6, "time": 1.0, "fd_lite0": pair[0], "is_lite0_mean": pair[1]}])
        ledger.report(item.id, folder.read_history()[0])
        folder.update_status(state="completed", step=6)
        ledger.close(item.id)
    for arm in ledger.sweep.arms:
        found = study(ledger, f"{arm}/search")
        assert [tuple(trial.values) for trial in found.trials] == [values[arm, n] for n in range(5)]
        winners = [trial.number for trial in ledger.winners(arm)]
        assert set(winners) <= {trial.number for trial in found.best_trials}
