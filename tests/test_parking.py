"""A ledger whose rungs promote, over a real journal, with workers, drivers and files that die at any moment."""

import functools
import math
import os
import random

import pytest
from test_ledger import SWEEP, open_ledger, start, study, work  # noqa: F401 (a fixture)

from orchestrator.causes import End, State
from orchestrator.promotion import audited, settings_of
from orchestrator.retry import retry
from orchestrator.runs import FORMAT, RunFolderError, load_runs, write_json
from orchestrator.seen import Seen

PROMOTE = "{name: promote, first: 0.2, audit: 0.1}"
TEXT = SWEEP.replace("steps: 6", "steps: 30").replace("trials: 5", "trials: 11").replace("steps: 8", "steps: 40")
TEXT = TEXT.replace("every: 2,", "every: 3,").replace("top: 2", "top: 1").replace("[0, 1, 7]", "[0, 7]")
RUNGS = (6, 18)
SWEEP_JSON = {"name": "study", "finished": True, "command": "aiqn sweep study.yaml"}


def score(assignment, step):
    """A made-up curve, whose order at the rungs is not that at the end."""
    draw = random.Random(f"{assignment.arm}/{assignment.number}/{assignment.seed}/{step}")
    return 100 / step + draw.random()


def train(ledger, assignment, until=None):
    """Train as a worker does from where its folder is; tell the ledger. How it ended, None where it was cut off."""
    folder, every = start(ledger, assignment), assignment.config["evaluate"]["every"]
    steps = assignment.config["train"]["steps"]
    for step in (*range(every, steps, every), steps):
        if until is not None and step > until:
            return None
        known = {record["step"]: record for record in folder.read_history()}
        record = known.get(step) or {"step": step, "time": float(step), "fd_lite0": score(assignment, step)}
        if step not in known:
            folder.append_metrics([record])
        if (state := ledger.report(assignment.id, record)) is not None:
            ledger.close(assignment.id, End(state))
            return state
    folder.update_status(state="completed", step=steps)
    ledger.close(assignment.id)
    return State.COMPLETED


def train_all(ledger):
    order = []
    while (assignment := ledger.next()) is not None:
        order.append((assignment.id, train(ledger, assignment)))
    return order


@pytest.fixture
def promoting(open_ledger):  # noqa: F811
    return functools.partial(open_ledger, pruner=PROMOTE, text=TEXT)


def measured(run):
    """What every trial has come to: state, step and numbers."""
    return {item.id: (item.state, [(r["step"], r["fd_lite0"]) for r in item.history]) for item in load_runs(run.path)}


def expected(ledger):
    """By arm, who trains to which step: a slow loop of synchronous halving over the curves."""
    found = {}
    for arm in ledger.sweep.arms:
        items = {n: _Item(arm, n, ledger) for n in range(ledger.sweep.search.trials)}
        reached, alive = dict.fromkeys(items, RUNGS[0]), sorted(items)
        for rung, after in zip(RUNGS, (*RUNGS[1:], 30), strict=True):
            alive = sorted(alive, key=lambda n: (score(items[n], rung), n))[: max(1, len(alive) // 3)]
            reached |= dict.fromkeys(alive, after)
        settings = settings_of(ledger.sweep.search.pruner)
        reached |= {n: 30 for n in items if audited(settings, ledger.sweep.search.seed, arm, n)}
        found |= {f"{arm}-search-{n}": step for n, step in reached.items()}
    return found


class _Item:
    def __init__(self, arm, number, ledger):
        from orchestrator.seeds import trial_seed

        self.arm, self.number, self.seed = arm, number, trial_seed(ledger.sweep.search.seed, arm, number)


def test_trials_are_parked_promoted_and_audited_as_a_loop_of_halving_says(promoting):
    ledger = promoting()
    order = train_all(ledger)
    assert ledger.complete
    wanted = expected(ledger)
    found = measured(ledger.run)
    assert {trial: history[-1][0] for trial, (_, history) in found.items() if "search" in trial} == wanted
    for trial, step in wanted.items():
        assert found[trial][0] == ("completed" if step == 30 else "parked")
    assert {1, 2} == {ledger.states[arm, "search"]["completed"] for arm in ledger.sweep.arms}  # one audited is the best
    stays = [trial for trial, _ in order]
    assert stays.count("pixelcnn-search-0") <= 3
    for arm in ledger.sweep.arms:
        trials = study(ledger, f"{arm}/search").trials
        assert sorted({trial.state.name for trial in trials}) == ["COMPLETE", "PRUNED"]
        for trial in trials:  # Optuna knows all that was measured, and of each no more
            history = dict(found[f"{arm}-search-{trial.number}"][1])
            assert trial.intermediate_values == history
            assert trial.value == history[max(history)]
    assert promoting().complete  # and so it is after a restart


def test_while_the_search_runs_a_parked_trial_is_open_in_optuna_and_says_so(promoting):
    ledger = promoting(pruner=PROMOTE.replace("0.1", "0.0"))
    for _ in range(6):
        train(ledger, ledger.next())
    trials = study(ledger, "pixelcnn/search").trials
    assert [trial.state.name for trial in trials] == ["RUNNING"] * 3
    assert [trial.user_attrs["outcome"]["state"] for trial in trials] == ["parked"] * 3
    status = ledger.run.trial("pixelcnn-search-1").read_status()
    assert (status["state"], status["step"]) == ("parked", 6)


def disturbed(open_, flight, draw, cut=True):
    """A promoting sweep with `flight` trials at once: any of them comes next, and workers, driver and journal die."""
    ledger, running, ended = open_(), [], []
    for _ in range(10_000):
        while len(running) < flight and (item := ledger.next()) is not None:
            assert item.id not in {other.id for other in running}
            running.append(item)
        if not running:
            break
        item = running.pop(draw.randrange(len(running)))
        fate = draw.choice(("train",) * 6 + ("killed", "preempted", "driver", "journal"))
        if fate == "train":
            ended.append((item.id, train(ledger, item)))
            continue
        train(ledger, item, until=draw.randrange(31)) if draw.random() < 0.8 else None
        if item.id not in ledger.rows:
            continue  # it had come to a rung
        if fate in ("driver", "journal"):
            if fate == "journal" and cut:
                os.truncate(ledger.run.journal, draw.randrange(ledger.run.journal.stat().st_size + 1))
            ledger, running = open_(), []
        else:
            cause = "preempted" if fate == "preempted" or not ledger.run.trial(item.id).path.exists() else "node lost"
            running += [again for again in [ledger.close(item.id, End(State.FAILED, cause))] if again is not None]
    assert ledger.complete
    return ledger


@pytest.mark.parametrize("seed", range(4))
def test_any_order_any_workers_and_any_kills_give_the_same_promotions_and_numbers(promoting, seed):
    undisturbed = promoting(folder="one")
    train_all(undisturbed)
    draw = random.Random(seed)
    ledger = disturbed(functools.partial(promoting, folder="other"), draw.choice([1, 2, 5, 22]), draw)
    assert measured(ledger.run) == measured(undisturbed.run)
    assert ledger.states == undisturbed.states
    for arm in ledger.sweep.arms:
        for trial, other in zip(*(study(one, f"{arm}/search").trials for one in (ledger, undisturbed)), strict=True):
            assert (trial.state, trial.values, trial.params) == (other.state, other.values, other.params)
            assert trial.intermediate_values == other.intermediate_values


@pytest.mark.parametrize("seed", range(2))
def test_without_waiting_no_trial_is_lost_or_trained_twice(promoting, seed):
    pruner = PROMOTE.replace("audit", "asynchronous: true, audit")
    draw = random.Random(seed)
    ledger = disturbed(functools.partial(promoting, pruner=pruner), draw.choice([2, 5]), draw, cut=False)
    found = measured(ledger.run)
    assert len([trial for trial in found if "search" in trial]) == 22
    for trial, step in expected(ledger).items():  # those that a full rung promotes have gone on here as well
        assert found[trial][1][-1][0] >= (step if step < 30 else 18)
    for trial, (state, history) in found.items():
        assert state in ("parked", "completed")
        assert len({step for step, _ in history}) == len(history)
        assert history[-1][0] in ((*RUNGS, 30) if "search" in trial else (40,))


def test_a_search_that_grows_takes_its_parked_trials_up_again(promoting):
    train_all(promoting())
    before = measured(promoting().run)
    ledger = promoting(text=TEXT.replace("trials: 11", "trials: 29"))
    assert not ledger.complete
    train_all(ledger)
    assert ledger.complete
    found = measured(ledger.run)
    for trial, (state, history) in before.items():  # nothing is taken back, nothing changed
        assert found[trial][1][: len(history)] == history
        assert state != "completed" or found[trial][0] == "completed"
    for trial, step in expected(ledger).items():
        # All whom a larger search promotes have gone on; at the second rung they met those of the smaller one too.
        assert found[trial][1][-1][0] >= min(step, 18)
    for arm in ledger.sweep.arms:
        second = {
            trial: dict(history)[18]
            for trial, (_, history) in found.items()
            if 18 in dict(history) and arm in trial and "search" in trial
        }
        assert found[min(second, key=second.get)][0] == "completed"
    assert any(before[trial][0] == "parked" and found[trial][1][-1][0] > before[trial][1][-1][0] for trial in before)
    assert {trial.state.name for trial in study(ledger, "pixelcnn/search").trials} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("name", ["metrics", "config", "status"])
def test_the_folder_of_a_parked_trial_that_lost_something_is_mended_to_its_rung(promoting, name):
    ledger = promoting()
    train_all(ledger)
    before = measured(ledger.run)
    parked = next(trial for trial, (state, _) in before.items() if state == "parked")
    path = getattr(ledger.run.trial(parked), name)
    path.write_bytes(path.read_bytes()[:-9])
    ledger = promoting()
    assert not ledger.complete
    assert [trial for trial, _ in train_all(ledger)] == [parked]
    assert ledger.complete
    assert measured(ledger.run) == before


def test_a_diverged_trial_is_the_worst_of_its_rung(promoting):
    ledger = promoting(pruner=PROMOTE.replace("0.1", "0.0"))
    best = min((_Item("pixelcnn", n, ledger) for n in range(11)), key=lambda item: score(item, 6)).number
    while (item := ledger.next()) is not None:
        if item.id == f"pixelcnn-search-{best}":
            start(ledger, item).update_status(state="diverged", cause="not finite")
            ledger.close(item.id)
        else:
            train(ledger, item)
    assert ledger.complete
    assert ledger.states["pixelcnn", "search"] == {"parked": 9, "diverged": 1, "completed": 1}


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_learns_from_parked_trials(promoting, sampler):
    """Samplers pass over running trials: none is to be random search while all that it could learn from is parked."""

    def late(name):
        """How far the later of 34 learning rates of an arm are from the best one, in powers of ten."""
        ledger = promoting(sampler=name, folder=name, text=TEXT.replace("trials: 11", "trials: 40"))
        far = []
        for _ in range(68):
            item = ledger.next()
            folder, distance = start(ledger, item), abs(math.log10(item.config["optimizer"]["lr"] / 0.01))
            for step in (3, 6):
                record = {"step": step, "time": 1.0, "fd_lite0": distance}
                folder.append_metrics([record])
                state = ledger.report(item.id, record)
            if state is not None:
                ledger.close(item.id, End(state))
            far += [distance] if item.arm == "pixelcnn" else []
        return sum(far[17:]) / len(far[17:])

    assert late(sampler) < 0.7 * late("random")


def test_a_sampler_is_shown_an_audited_trial_only_as_far_as_it_earned(promoting):
    """All that completed are better than all that were stopped, for `tpe`: an audited trial would always be."""
    ledger = promoting(pruner=PROMOTE.replace("0.1", "0.3"), sampler="tpe")
    rungs, arm = ledger.rungs["pixelcnn"], "pixelcnn"
    seen = lambda: Seen(ledger.studies[arm, "search"], rungs.shown_until).get_trials()  # noqa: E731
    while ledger.issued(arm, "search") < 11:
        train(ledger, ledger.next())
        assert all(trial.state.name in ("PRUNED", "RUNNING") for trial in seen())
    early = [trial for trial in seen() if trial.state.name == "PRUNED"]
    assert ledger.states[arm, "search"]["completed"] > 0
    assert {trial.last_step for trial in early} == {6}
    assert all(trial.value == trial.intermediate_values[6] for trial in early)
    train_all(ledger)
    free = {one.number for one in rungs.contestants.values() if one.free}
    for trial, known in zip(seen(), ledger.studies[arm, "search"].trials, strict=True):
        earned = rungs.contestants[trial.number].passed
        if trial.number in free and earned < 2:
            assert (trial.state.name, trial.last_step) == ("PRUNED", RUNGS[earned])
            assert known.state.name == "COMPLETE"
        else:
            assert (trial.state, trial.values) == (known.state, known.values)
    assert len(free) == 4


def test_longer_finals_go_on_and_leave_parked_trials_parked(promoting):
    train_all(promoting())
    before = measured(promoting().run)
    ledger = promoting(text=TEXT.replace("steps: 40", "steps: 47"))
    assert not ledger.complete
    assert {trial for trial, _ in train_all(ledger)} == {trial for trial in before if "final" in trial}
    for trial, (state, history) in measured(ledger.run).items():
        assert (state, history) == before[trial] if "search" in trial else history[-1][0] == 47


def test_parked_trials_that_are_asked_for_train_to_their_end(promoting):
    ledger = promoting()
    train_all(ledger)
    before = measured(ledger.run)
    write_json(ledger.run.sweep_json, {"format": FORMAT, **SWEEP_JSON, "sweep": ledger.sweep.to_dict()})
    first, second = [trial for trial, (state, _) in before.items() if state == "parked"][:2]
    with pytest.raises(RunFolderError, match="expected trials that are parked"):
        retry(ledger.run.path, [first, "pixelcnn-search-99"], parked=True)
    with pytest.raises(RunFolderError, match="a parked trial has no cause"):
        retry(ledger.run.path, cause="KeyError", parked=True)
    assert retry(ledger.run.path, [first], parked=True)[0] == f"{first} (parked) is handed out again"
    ledger = promoting()
    assert not ledger.complete
    trained = train_all(ledger)
    assert trained[0] == (first, State.COMPLETED)
    assert all("-final-" in trial for trial, _ in trained[1:])  # it is better than the winner, which is found out now
    assert ledger.complete
    after = measured(ledger.run)
    assert after[second] == before[second]
    assert after[first][0] == "completed"
    assert after[first][1][: len(before[first][1])] == before[first][1]
    assert len(retry(ledger.run.path, parked=True)) == sum(state == "parked" for state, _ in after.values()) + 1
    ledger = promoting()
    train_all(ledger)
    assert {state for state, _ in measured(ledger.run).values()} == {"completed"}
