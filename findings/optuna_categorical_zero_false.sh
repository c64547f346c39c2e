#!/usr/bin/env bash
# Optuna 5.0.0, suggest_categorical with choices that Python holds equal (0 and False, 1 and True, 1 and 1.0): the
# objective is given the choice that was drawn, but the trial is stored under the first equal choice. No warning
# is given, in memory or in SQLite.
#
# Seen: choices [0, False, 0.5], 12 random trials: the objective was given False five times and 0 twice;
# study.trials holds 0 seven times and False never.
#
# Why it matters: YAML's "off" beside 0, or "True" beside 1, is a common way to write "none, automatic or a
# number". The results of two different settings are then pooled under one name, best_params names the wrong one,
# and a rerun of the best trial runs another program than the one that was best.
#
# What to do: use text labels as choices ("off", "zero", "half") and map them to values inside the objective.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
print("optuna", optuna.__version__)
for storage in (None, "sqlite://"):
    given = []

    def objective(trial):
        given.append(trial.suggest_categorical("dropout", [0, False, 0.5]))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), storage=storage)
    study.optimize(objective, n_trials=12)
    stored = [t.params["dropout"] for t in study.trials]
    print("given: ", given)
    print("stored:", stored)
    assert sum(v is False for v in given) == 5
    assert sum(v is False for v in stored) == 0
    assert sum(v == 0 for v in stored) == sum(v == 0 for v in given) == 7
EOF
