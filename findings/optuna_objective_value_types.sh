#!/usr/bin/env bash
# Optuna 5.0.0: what becomes of an objective's return value depends on its container in a way that is hard to
# guess. A number as text ends the whole optimize() call with a bare AssertionError and leaves the trial RUNNING
# for ever; a one-element NumPy array makes the trial FAIL and the study goes on; a one-element list, a tuple or a
# 0-d NumPy array is accepted. Text that is no number ("n/a") is only a FAIL, so the text that looks right is the
# one that stops the sweep.
#
# Seen: "0.5" gave AssertionError('Should not reach.') and state RUNNING; "n/a" gave FAIL; np.array([0.5]) gave
# FAIL; [0.5], (0.5,) and np.array(0.5) gave COMPLETE with 0.5.
#
# Why it matters: a training script's last line read from its output is text, and a metric taken from a batch is
# an array of shape (1,). The first stops the worker and leaves a running trial that the samplers take into
# account; the second fills the study with failed trials although every training was fine.
#
# What to do: return float(value) from the objective, with value.item() for arrays.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import numpy as np
import optuna

optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def outcome(value):
    study = optuna.create_study()
    try:
        study.optimize(lambda trial: value, n_trials=1)
        raised = None
    except AssertionError as error:
        raised = str(error)
    trial = study.trials[0]
    print(repr(value), "->", raised, trial.state.name, trial.values)
    return raised, trial.state.name, trial.values


print("optuna", optuna.__version__)
assert outcome("0.5") == ("Should not reach.", "RUNNING", None)
assert outcome("n/a") == (None, "FAIL", None)
assert outcome(np.array([0.5])) == (None, "FAIL", None)
for value in ([0.5], (0.5,), np.array(0.5)):
    assert outcome(value) == (None, "COMPLETE", [0.5])
EOF
