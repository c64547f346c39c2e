#!/usr/bin/env bash
# Optuna 5.0.0, NSGAIISampler with its default arguments: on a space that has one parameter in common to all
# trials it never evolves anything. The default mutation probability is one over the number of jointly sampled
# parameters, which is 1 there, and a mutated parameter is drawn at random, so each trial is what RandomSampler
# with the same seed would have drawn. A conditional space whose branches share only the branching parameter is
# such a space.
#
# Seen: 60 trials on one float, and 60 trials on two branches with one float each, were equal number by number to
# RandomSampler(seed=3), with populations of 5, thus twelve generations. With mutation_prob=0.1 the values
# repeated their parents' (far fewer distinct values). A space of two floats left the random stream at trial 5.
#
# Why it matters: a comparison "evolution against random search" on one hyperparameter, or on branches, compares
# random search with itself and looks like a careful negative result.
#
# What to do: set mutation_prob yourself, or use another sampler for one parameter and for branching spaces.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def one(trial):
    return (trial.suggest_float("x", 0, 1) - 0.3) ** 2


def two(trial):
    return one(trial) + trial.suggest_float("y", 0, 1)


def branches(trial):
    return trial.suggest_float("x" if trial.suggest_categorical("arm", ["a", "b"]) == "a" else "y", 0, 1)


def params(sampler, objective):
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=60)
    return [tuple(t.params.items()) for t in study.trials]


def genetic(objective, **options):
    return params(optuna.samplers.NSGAIISampler(seed=3, population_size=5, **options), objective)


print("optuna", optuna.__version__)
for objective in (one, branches):
    same = genetic(objective) == params(optuna.samplers.RandomSampler(seed=3), objective)
    print(objective.__name__, "equal to random search in all 60 trials:", same)
    assert same
pairs = zip(genetic(two), params(optuna.samplers.RandomSampler(seed=3), two))
leaves = next(i for i, (a, b) in enumerate(pairs) if a != b)
distinct = len(set(genetic(one, mutation_prob=0.1)))
print("two parameters differ from trial", leaves, "on; distinct of 60 with mutation_prob=0.1:", distinct)
assert leaves == 5
assert distinct < 40
EOF
