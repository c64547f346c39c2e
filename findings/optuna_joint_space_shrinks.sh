#!/usr/bin/env bash
# Optuna 5.0.0, TPESampler with its default arguments (which model all parameters jointly): one trial that was
# pruned before it suggested a parameter takes that parameter out of the joint model for the rest of the study. So
# does a trial added from elsewhere without it, and a range that was widened between two runs of a study.
#
# Seen: after 12 trials over x and y the joint space was [x, y]. After one trial pruned between suggest("x") and
# suggest("y") it was [x], and still after 100 further full trials. After x was widened from [0, 1] to [0, 2] it
# was [y], and still after 100. A trial that FAILED at the same place did no harm.
#
# Why it matters: a cheap check placed between two suggestions ("this width does not fit in memory: prune")
# quietly turns joint search into one-parameter-at-a-time search, in the middle of a sweep, without a message.
#
# What to do: suggest every parameter first and prune afterwards; let an unfit trial fail instead of pruning it;
# pass group=True to TPESampler; begin a new study when a range changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def full(trial):
    return trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1)


def wider(trial):
    return trial.suggest_float("x", 0, 2) + trial.suggest_float("y", 0, 1)


def pruned(trial):
    trial.suggest_float("x", 0, 1)
    raise optuna.TrialPruned


def failed(trial):
    trial.suggest_float("x", 0, 1)
    raise ValueError("does not fit")


def joint(*steps, **options):
    sampler = optuna.samplers.TPESampler(seed=0, **options)
    study = optuna.create_study(sampler=sampler)
    for objective, n_trials in steps:
        study.optimize(objective, n_trials=n_trials, catch=ValueError)
    return sorted(sampler.infer_relative_search_space(study, study.trials[-1]))


def show(what, space, expected):
    print(what, "-> joint space", space)
    assert space == expected


print("optuna", optuna.__version__)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)
show("12 full trials", joint((full, 12)), ["x", "y"])
show("then one pruned early", joint((full, 12), (pruned, 1)), ["x"])
show("then 100 full trials", joint((full, 12), (pruned, 1), (full, 100)), ["x"])
show("then one failed early", joint((full, 12), (failed, 1)), ["x", "y"])
show("12, then 100 over a wider x", joint((full, 12), (wider, 100)), ["y"])
show("one pruned early, group=True", joint((full, 12), (pruned, 1), multivariate=True, group=True), ["x", "y"])
EOF
