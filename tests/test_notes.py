"""Notes on what has no effect, against Optuna's own samplers and pruners at work, and through both commands."""

import itertools
import warnings

import optuna
import pytest
from optuna.trial import TrialState
from sweep_files import SMALL
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.notes import never_stops, notes
from orchestrator.rungs import completed, evaluations_at, fewest_arrivals
from orchestrator.samplers import is_pruned, make_pruner, make_sampler
from orchestrator.space import suggest

SPACES = {
    "two ranges": "{optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, train.ema_decay: {low: 0.5, high: 0.99}}",
    "one range": "{optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}",
    "mixed": "{optimizer.name: {adam: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2}}, rmsprop: },"
    " train.ema_decay: {low: 0.5, high: 0.99}, optimizer.eps: {low: 1.0e-8, high: 1.0e-4}}",
    "inside": "{optimizer.name: {adam: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2}}, sgd: {optimizer.lr: [0.1, 0.2]}}}",
}


def searched(load, search, space="two ranges", steps=70, every=5):
    text = f"# Which?\nname: small\ntrain: {{steps: {steps}}}\nevaluate: {{every: {every}, samples: 11}}\n"
    text += f"search: {search}\narms:\n  one:\n    model: {{name: pixelcnn, layers: 2}}\n    space: {SPACES[space]}\n"
    return load(text)


def proposals(sweep, sign):
    """What the sampler proposes where low values are good (sign 1) or bad (-1), with a sampler for each trial."""
    space, study, found = sweep.arms["one"].space, optuna.create_study(), []
    for number in range(sweep.search.trials):
        study.sampler = make_sampler(sweep.search.sampler, 3, space, number)
        trial = study.ask()
        found.append(suggest(trial, space))
        study.tell(trial, sign * (found[-1].get("optimizer.lr", 0.0) + found[-1].get("train.ema_decay", 0.0)))
    return found


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("sampler", "space", "last"),  # with `last` trials a sampler has learned nothing, with one more it has
    [
        ("tpe", "two ranges", 10),
        ("{name: tpe, n_startup_trials: 3}", "one range", 3),
        ("{name: gp, n_startup_trials: 2}", "two ranges", 2),
        ("nsga2", "two ranges", 50),
        ("{name: nsga2, population_size: 7}", "two ranges", 7),
        ("cmaes", "two ranges", 7),
        ("{name: cmaes, popsize: 5, n_startup_trials: 3}", "two ranges", 8),
    ],
)
def test_a_sampler_that_has_no_trials_to_learn_from_is_noted(load, sampler, space, last):
    for trials, blind in ((last, True), (last + 1, False)):
        sweep = searched(load, f"{{trials: {trials}, sampler: {sampler}}}", space)
        # A child of nsga2 is a mutant in all its parameters one time in four; a Gaussian process takes seconds.
        if blind or not ("nsga" in sampler or "gp" in sampler):
            assert (proposals(sweep, 1) == proposals(sweep, -1)) == blind
        assert any("random search" in note or "never learns" in note for note in notes(sweep)) == blind


@pytest.mark.parametrize(
    ("arguments", "space", "blind"),
    [
        ("", "one range", True),
        ("", "two ranges", False),
        (", mutation_prob: 0.3", "one range", False),
        (", mutation_prob: 1.0", "two ranges", True),
    ],
)
def test_a_genetic_search_that_mutates_everything_is_random(load, arguments, space, blind):
    sweep = searched(load, f"{{trials: 23, sampler: {{name: nsga2, population_size: 5{arguments}}}}}", space)
    assert (proposals(sweep, 1) == proposals(sweep, -1)) == blind
    assert any(note.endswith("this is a random search.") for note in notes(sweep)) == blind


def test_a_genetic_search_with_one_parameter_in_each_branch_learns_the_branch_alone(load):
    sweep = searched(load, "{trials: 41, sampler: {name: nsga2, population_size: 5}}", "inside")
    up, down = proposals(sweep, 1), proposals(sweep, -1)
    alike = [
        one == other for one, other in zip(up, down, strict=True) if one["optimizer.name"] == other["optimizer.name"]
    ]
    assert up != down
    assert alike
    assert all(alike)
    assert ["all but the branch, which tpe chooses, is at random" in note for note in notes(sweep)] == [True]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gp", "tpe chooses optimizer.name of arm one, and gp all else, in each of the 2 branches of arm one from"),
        ("nsga2", "tpe chooses optimizer.name of arm one, and nsga2 all else"),
        ("cmaes", "tpe chooses optimizer.name of arm one, and cmaes all else"),
        ("tpe", None),
        ("random", None),
    ],
)
def test_who_chooses_the_branch_is_said(load, name, said):
    """After trials of every branch a sampler draws all of the next together, tpe (as we use it) what is always open."""
    sweep = searched(load, f"{{trials: 160, sampler: {name}}}", "mixed")
    space, study = sweep.arms["one"].space, optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for number in range(31):
        trial = study.ask()
        suggest(trial, space)
        study.tell(trial, float(number))
    study.sampler = make_sampler(sweep.search.sampler, 3, space, 31)
    trial = study.ask()
    together = set(study.sampler.infer_relative_search_space(study, study._storage.get_trial(trial._trial_id)))
    params = suggest(trial, space)
    assert [note for note in notes(sweep) if "tpe chooses" in note] == [n for n in notes(sweep) if said and said in n]
    if said is not None:
        assert len(together) == len(params)
        assert len(notes(sweep)) == 1


def stops(settings, every, steps, trials, given):
    """How many trials a pruner stops of which each is worse than those before, and becomes worse all the time."""
    fewest = fewest_arrivals(settings, given)
    at = evaluations_at(settings, every, steps, None) or []
    judged = sorted({*range(every, steps, every), *at})
    study = optuna.create_study(
        study_name="a/search", pruner=make_pruner(completed(settings, every, steps), "minimize")
    )
    stopped = 0
    for number in range(trials):
        trial, pruned = study.ask(), False
        for step in judged:
            trial.report((number + 1) * 1000.0 + step, step)
            pruned = is_pruned(trial, fewest)
            if pruned:
                break
        stopped += pruned
        study.tell(trial, None if pruned else 1000.0 * (number + 1), state=TrialState.PRUNED if pruned else None)
    return stopped, never_stops(completed(settings, every, steps), judged, trials, fewest)


PRUNERS = [
    {"name": "median"},
    {"name": "median", "n_startup_trials": 2, "n_warmup_steps": 42},
    {"name": "median", "n_startup_trials": 0},
    {"name": "percentile", "percentile": 30.0, "n_startup_trials": 1, "n_min_trials": 4},
    {"name": "asha"},
    {"name": "asha", "reduction_factor": 2, "min_resource": 7},
    {"name": "asha", "reduction_factor": 2, "min_resource": 7, "bootstrap_count": 1},
    {"name": "patient", "patience": 3},
    {"name": "patient", "patience": 0, "wrapped_pruner": "median"},
    {"name": "threshold", "upper": 5.0, "n_warmup_steps": 38},
    {"name": "wilcoxon", "p_threshold": 0.4},
    {"name": "wilcoxon", "p_threshold": 0.4, "n_startup_steps": 5},
]


@pytest.mark.parametrize("settings", PRUNERS, ids=str)
def test_a_pruner_stops_nothing_exactly_where_it_is_said(settings):
    """The most that a pruner could stop: each trial is worse than those before it, and becomes worse."""
    seen = set()
    for every, trials, given in itertools.product((7, 19, 43, 50), (1, 2, 5, 6, 9), (None, 1, 7)):
        stopped, reason = stops(settings, every, 50, trials, given)
        assert (stopped == 0) == (reason is not None), (every, trials, given, reason)
        seen.add(stopped == 0)
    assert seen == {True, False}


def test_a_hyperband_that_is_said_to_stop_nothing_does():
    settings = {"name": "hyperband", "reduction_factor": 3}
    found = [stops(settings, 5, 50, trials, None) for trials in (1, 2, 5, 19)]
    assert all(stopped == 0 for stopped, reason in found if reason is not None)
    assert [reason is None for _, reason in found] == [False, False, True, True]
    assert found[-1][0] > 0


def test_a_patient_pruner_alone_lets_a_plateau_go_on(load):
    pruner = make_pruner({"name": "patient", "patience": 2}, "minimize")
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    stopped = []
    for step in range(1, 20):
        trial.report(1.0, step)
        stopped.append(trial.should_prune())
    assert not any(stopped)
    found = [
        notes(searched(load, f"{{trials: 11, pruner: {{name: patient, patience: 2{wrapped}}}}}"))
        for wrapped in ("", ", wrapped_pruner: median")
    ]
    assert [any("a plateau goes on to the end" in note for note in one) for one in found] == [True, False]


@pytest.mark.parametrize(
    ("pruner", "given", "nothing"),
    [
        ({"name": "none"}, 3, True),
        ({"name": "threshold", "upper": 40_000.0}, 3, True),
        ({"name": "patient", "patience": 1}, 3, True),
        ({"name": "median"}, 6, True),
        ({"name": "median"}, 9, False),
        ({"name": "median", "n_startup_trials": 1}, 2, False),
        ({"name": "median", "n_startup_trials": 1}, 5, False),
        ({"name": "asha"}, 2, False),
    ],
    ids=str,
)
def test_min_arrivals_without_effect_is_noted(load, pruner, given, nothing):
    """With it, as many trials are stopped as without."""
    same = stops(pruner, 5, 50, 23, given)[0] == stops(pruner, 5, 50, 23, None)[0]
    assert same == nothing
    written = ", ".join(f"{key}: {value}" for key, value in pruner.items())
    found = notes(searched(load, f"{{trials: 23, pruner: {{{written}}}, min_arrivals: {given}}}"))
    assert any("min_arrivals" in note for note in found) == nothing


def test_an_ordinary_search_has_no_notes(load):
    for search in (
        "{trials: 23, sampler: tpe, pruner: median}",
        "{trials: 5, sampler: random}",
        "{trials: 60, sampler: nsga2, objective: [{metric: fd_lite0}, {metric: is_lite0_mean}]}",
        "{trials: 12, sampler: qmc, pruner: asha, min_arrivals: 3}",
    ):
        assert notes(searched(load, search)) == []


def test_both_commands_say_it_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search = "search: {trials: 4, sampler: nsga2, pruner: {name: patient, patience: 1}, min_arrivals: 3}"
    text = SMALL.replace("search: {trials: 3}", search).replace("steps: 7", "steps: 70")
    (tmp_path / "small.yaml").write_text(text.replace("steps: 13", "steps: 130"))
    said = [
        "note: min_arrivals does nothing with pruner patient, which does not compare trials at a step.",
        "note: nsga2 draws its first 50 trials at random (population_size), and search.trials is 4:"
        " this is a random search.",
        "note: patient without a wrapped_pruner stops a trial that has become worse than it was, never one that stays"
        " as it is: a plateau goes on to the end.",
    ]
    for command in (("plan", "small.yaml"), ("sweep", "small.yaml", "--dry-run")):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert [line for line in result.output.splitlines() if line.startswith("note: ")] == said
