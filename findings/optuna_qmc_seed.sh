#!/usr/bin/env bash
# Optuna 5.0.0, QMCSampler with its default arguments: the seed changes only the first trial. Sobol and Halton
# points are unscrambled by default, so every later trial is the same under every seed, and the second trial
# (trial 1) is exactly the lower bound of every parameter at once.
#
# Seen: seeds 0 and 1 gave different trials 0, then both (0.0, 0.0), (0.5, 0.5), (0.75, 0.25), (0.25, 0.75). With
# scramble=True the two seeds had no point in common.
#
# Why it matters: five "repeats with different seeds" of a QMC sweep are one design evaluated five times, so the
# spread between them says nothing about the luck of the design; and one trial is always spent on the corner where
# every learning rate, width and depth is smallest.
#
# What to do: pass scramble=True together with the seed when seeds are meant to give different designs.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 scipy==1.17.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def points(seed, **options):
    study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=seed, **options))
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("y", 0, 1), n_trials=9)
    return [(t.params["x"], t.params["y"]) for t in study.trials]


print("optuna", optuna.__version__)
for kind in ("sobol", "halton"):
    first, second = points(0, qmc_type=kind), points(1, qmc_type=kind)
    print(kind, "seed 0:", first[:4], "seed 1:", second[:4])
    assert first[0] != second[0]
    assert first[1:] == second[1:]
    assert first[1] == (0.0, 0.0)
scrambled = [set(points(seed, scramble=True)) for seed in (0, 1)]
print("points in common when scrambled:", len(scrambled[0] & scrambled[1]))
assert not scrambled[0] & scrambled[1]
EOF
