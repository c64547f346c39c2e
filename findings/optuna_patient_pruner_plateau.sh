#!/usr/bin/env bash
# Optuna 5.0.0, PatientPruner(None, patience=3): a trial that stops improving is never pruned as long as it stays
# level. The rule compares the best of the last patience + 1 reports with the best before them and prunes only
# when the later best is worse by more than min_delta, so a flat curve passes for ever, and a larger min_delta
# makes the pruner more patient, not stricter.
#
# Seen: 20 equal reports: never pruned, with min_delta 0 as with 0.1. Improvement by 0.001 a step under
# min_delta=0.1: never pruned. A rise by 0.01 a step: pruned at step 4 with min_delta 0, at step 14 with min_delta
# 0.1.
#
# Why it matters: read as early stopping (stop after 3 reports without an improvement of min_delta, as in most
# training libraries), it saves nothing on the trials that it was put there for, those on a plateau.
#
# What to do: count the reports without improvement in the objective and raise TrialPruned there, or put a real
# pruner (median, successive halving) under the patience.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def pruned_at(values, min_delta):
    pruner = optuna.pruners.PatientPruner(None, patience=3, min_delta=min_delta)
    trial = optuna.create_study(direction="minimize", pruner=pruner).ask()
    for step, value in enumerate(values):
        trial.report(value, step)
        if trial.should_prune():
            return step
    return None


print("optuna", optuna.__version__)
curves = {"flat": [1.0] * 20, "creeps down": [1 - 0.001 * i for i in range(20)], "rises": [1 + 0.01 * i for i in range(20)]}
seen = {(name, delta): pruned_at(curve, delta) for name, curve in curves.items() for delta in (0.0, 0.1)}
for key, step in seen.items():
    print(key, "-> pruned at", step)
assert seen["flat", 0.0] is None and seen["flat", 0.1] is None and seen["creeps down", 0.1] is None
assert seen["rises", 0.0] == 4
assert seen["rises", 0.1] == 14
EOF
