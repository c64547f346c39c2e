"""What samplers are shown, on landscapes whose best is known: trials that diverge, that are stopped, and branches."""

import math
import random
import statistics
import warnings

import optuna
import pytest
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from orchestrator.branches import branches
from orchestrator.journal import Journal
from orchestrator.rungs import completed, fewest_arrivals
from orchestrator.samplers import is_pruned, make_pruner, make_sampler
from orchestrator.space import Space, partial_params, suggest
from orchestrator.views import standing

RATE = {"low": 1e-6, "high": 1.0, "log": True}
DECAY = {"low": 0.5, "high": 0.99}
PLAIN = Space.from_dict({"optimizer.lr": RATE, "train.ema_decay": DECAY})
BRANCHED = Space.from_dict(
    {
        "optimizer.name": {
            "adam": {"optimizer.lr": RATE, "optimizer.eps": {"low": 1e-8, "high": 1e-4, "log": True}},
            "sgd": {"optimizer.lr": RATE},
        },
        "train.ema_decay": DECAY,
    }
)
BEST = {"adam": 3e-4, "sgd": 3e-2}
OWN = {"gp": GPSampler, "cmaes": CmaEsSampler, "nsga2": NSGAIISampler}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def loss(params):
    """How bad a configuration is: 0 at its best rate and a decay of 0.8; None where its rate diverges."""
    rate, best = params["optimizer.lr"], BEST[params.get("optimizer.name", "adam")]
    return None if rate > 30 * best else math.log10(rate / best) ** 2 + 16 * (params["train.ema_decay"] - 0.8) ** 2


def search(settings, seed, trials, space=PLAIN, pruner="none", sign=1, own=None, storage=None):
    """The configurations by number, and the study. Each trial has a sampler of its own, and each its own curve."""
    steps = 16
    chosen = completed({"name": pruner}, 1, steps)
    study = optuna.create_study(
        storage=storage() if storage else None, study_name="s", pruner=make_pruner(chosen, "minimize")
    )
    found, draw = [], random.Random(seed)
    for number in range(trials):
        if storage and number:
            study = optuna.load_study(study_name="s", storage=storage(), pruner=study.pruner)
        mixed = random.Random(f"{seed}/{number}").getrandbits(31) if number else seed
        study.sampler = own(seed=mixed) if own else make_sampler(settings, seed, space, number)
        trial = study.ask()
        found.append(suggest(trial, space))
        value, stop = loss(found[-1]), False
        for step in range(1, steps) if value is not None and pruner != "none" else ():
            trial.report(sign * value + 5 * math.exp(-step / 5) + draw.gauss(0, 0.1) / step, step)
            if stop := is_pruned(trial, fewest_arrivals(chosen, None)):
                break
        bad = stop or value is None
        study.tell(trial, None if bad else sign * value, state=TrialState.PRUNED if bad else TrialState.COMPLETE)
    return found, study


@pytest.mark.parametrize("name", OWN)
def test_where_nothing_diverged_or_was_stopped_optuna_suggests_what_it_would_by_itself(name):
    small = {"nsga2": {"population_size": 5}, "gp": {"n_startup_trials": 4}, "cmaes": {}}[name]
    space = Space.from_dict({"optimizer.lr": {**RATE, "high": 3e-3}, "train.ema_decay": DECAY})
    trials = 6 if name == "gp" else 29
    alone = lambda seed: OWN[name](seed=seed, **small)  # noqa: E731
    assert search({"name": name, **small}, 5, trials, space)[0] == search({}, 5, trials, space, own=alone)[0]


def test_a_gaussian_process_leaves_where_trials_diverge():
    """By itself it never hears of them: the last seven would all diverge, with one and the same rate."""
    losses = [loss(params) for params in search({"name": "gp", "n_startup_trials": 6}, 1, 14)[0]]
    assert losses[-7:].count(None) <= 2
    assert min(value for value in losses if value is not None) < 0.05


@pytest.mark.parametrize("name", ["cmaes", "nsga2"])
def test_what_a_pruner_stops_teaches(name):
    """With successive halving nsga2 was random search bit for bit: a dozen trials complete, and it waits for fifty."""
    small = {"population_size": 20} if name == "nsga2" else {}
    late = {"random": [], name: []}
    for seed in (3, 5, 7):
        for sampler, arguments in (("random", {}), (name, small)):
            found, study = search({"name": sampler, **arguments}, seed, 120, pruner="asha")
            assert sum(one.state == TrialState.COMPLETE for one in study.trials) < 40
            late[sampler] += [9.0 if (value := loss(params)) is None else value for params in found[-30:]]
    assert statistics.median(late[name]) < statistics.median(late["random"]) / (20 if name == "cmaes" else 2)


def near(found):
    """How many configurations have a rate within a factor of three of the best of their branch."""
    return sum(1 / 3 < params["optimizer.lr"] / BEST[params["optimizer.name"]] < 3 for params in found)


@pytest.mark.parametrize(("name", "share"), [("cmaes", 0.7), ("nsga2", 0.35), ("gp", 0.5)])
def test_a_sampler_learns_in_each_branch(name, share):
    """At random a rate lies so near to the best one time in six; that is what all of them did inside of a branch."""
    small = {"cmaes": {}, "nsga2": {"population_size": 10}, "gp": {"n_startup_trials": 4}}[name]
    trials, seeds = (24, (1,)) if name == "gp" else (100, (1, 2, 3))
    late = [
        params
        for seed in seeds
        for params in search({"name": name, **small}, seed, trials, BRANCHED)[0][-trials // 3 :]
    ]
    assert near(late) >= share * len(late)


@pytest.mark.parametrize("name", ["cmaes", "nsga2"])
def test_suggestions_follow_from_the_journal_alone(name, tmp_path):
    """A driver that starts again before each trial reads the file anew; none has anything but it."""
    small = {"population_size": 6} if name == "nsga2" else {}
    anew = lambda: JournalStorage(Journal(tmp_path / "journal.log"))  # noqa: E731
    at_once, _ = search({"name": name, **small}, 3, 41, BRANCHED, "asha")
    assert search({"name": name, **small}, 3, 41, BRANCHED, "asha", storage=anew)[0] == at_once


@pytest.mark.parametrize("name", ["gp", "cmaes", "nsga2"])
def test_a_branch_that_is_fixed_stays(name):
    given = [{"optimizer.name": "adam", "optimizer.eps": 3e-6}, {"optimizer.name": "sgd"}]
    small = {"n_startup_trials": 30} if name == "gp" else {}
    study = optuna.create_study()
    for number in range(23):
        study.enqueue_trial(partial_params(BRANCHED, given[number % 2]))
        study.sampler = make_sampler({"name": name, **small}, 5, BRANCHED, number)
        trial = study.ask()
        params = suggest(trial, BRANCHED)
        assert given[number % 2].items() <= params.items()
        study.tell(trial, loss(params) or 9.0)


def ended(value=None, reports=(), outcome=None):
    """A trial that completed with a value (or several), or else was stopped after these reports (step, value)."""
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    attributes = {"outcome": {"state": outcome}} if outcome else {}
    values = value if value is None or isinstance(value, list) else [value]
    return create_trial(state=state, values=values, intermediate_values=dict(reports), user_attrs=attributes)


def stands(trials, directions=("minimize",), by_rank=False):
    numbered = []
    for number, one in enumerate(trials):
        one.number = number
        numbered.append(one)
    found = standing(numbered, [StudyDirection[one.upper()] for one in directions], by_rank)
    assert all(one.state == TrialState.COMPLETE for one in found)
    assert [one.state for one in numbered] == [one.state for one in trials]  # the study's own are as they were
    return [(one.number, one.values) for one in found]


def test_a_stopped_trial_stands_by_what_it_measured_and_a_diverged_one_as_the_worst():
    completed = [ended(3.0, {5: 11.0, 7: 6.0}), ended(4.0, {5: 10.0, 7: 5.0})]
    stopped = [ended(None, {5: 12.0}), ended(None, {5: 13.0, 7: 5.5}), ended(None, {5: 2.0}, "diverged"), ended()]
    by_course = [5.0, 3.5, 5.0, 5.0]  # those that completed came 7 down from step 5, and 2 from step 7
    by_rank = [12.0, 5.5, 12.0, 12.0]
    for own, expected in ((False, by_course), (True, by_rank)):
        assert stands([*completed, *stopped], by_rank=own) == list(enumerate([[3.0], [4.0], *([v] for v in expected)]))
    better = [ended(3.0, {5: 11.0}), ended(None, {5: 1.0})]  # than any that completed, which a pruner never stops
    assert stands(better, by_rank=True)[1] == (1, [3.0])


def test_the_worst_is_that_of_the_direction():
    assert stands([ended(3.0), ended(7.0), ended()], ["maximize"])[2] == (2, [3.0])
    assert stands([ended(3.0, {5: 1.0}), ended(None, {5: 0.5})], ["maximize"])[1] == (1, [2.5])
    several = [ended([3.0, 5.0]), ended([7.0, 11.0]), ended()]
    assert stands(several, ["minimize", "maximize"])[2] == (2, [7.0, 5.0])
    assert stands([ended(3.0), ended(math.inf), ended()])[2] == (2, [3.0])
    assert stands([ended(), ended(None, {5: 2.0}, "diverged")]) == []  # nothing to stand by


def test_the_branches_of_a_space_are_told_apart_by_the_choices_that_open_others():
    nested = {
        "optimizer.name": {
            "adam": {"schedule.name": {"constant": None, "decay": {"schedule.boundaries": [[5], [7]]}}},
            "sgd": None,
        }
    }
    space = Space.from_dict({**nested, "loss.kappa": [0.0, 0.1], "train.ema_decay": DECAY})
    always = ["loss.kappa", "train.ema_decay"]
    found = {words: [one.path for one in dimensions] for words, dimensions in branches(space)}
    assert found == {
        "optimizer.name=adam, schedule.name=constant": always,
        "optimizer.name=adam, schedule.name=decay": ["schedule.boundaries", *always],
        "optimizer.name=sgd": always,
    }
    assert [words for words, _ in branches(PLAIN)] == [""]
