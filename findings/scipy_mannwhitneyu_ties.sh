#!/usr/bin/env bash
# SciPy 1.17.1, scipy.stats.mannwhitneyu with its default method: a single tie between two seeds of the same arm
# makes the p-value smaller than the smallest one that is possible for these sample sizes. Without ties the exact
# distribution is used for small samples; with any tie the function falls back to the normal approximation,
# without a message, even for three values against four.
#
# Seen: [1, 2, 3] against [4, 5, 6, 7], every value apart: p = 0.0571, the exact minimum 2/35. With [1, 1, 3] in
# place of [1, 2, 3]: p = 0.0497. Three against three: 0.1 exact, 0.0469 when each arm's seeds agree (1, 1, 1
# against 4, 4, 4).
#
# Why it matters: accuracies on a small test set tie often. Whether "three seeds against four" is below 0.05 then
# depends on a coincidence within one arm, and a difference that no exact test could call significant is reported
# so.
#
# What to do: pass method=scipy.stats.PermutationMethod() for small samples, which is exact with ties as well (0.1
# and 0.0571 above), and more seeds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile scipy==1.17.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import scipy
from scipy.stats import PermutationMethod, mannwhitneyu

print("scipy", scipy.__version__)


def p(a, b):
    default, exact = mannwhitneyu(a, b).pvalue, mannwhitneyu(a, b, method=PermutationMethod()).pvalue
    print(a, "against", b, f"-> default p = {default:.4f}, permutation p = {exact:.4f}")
    return default, exact


default, exact = p([1, 2, 3], [4, 5, 6, 7])
assert abs(default - 2 / 35) < 1e-12 and abs(exact - 2 / 35) < 1e-12
default, exact = p([1, 1, 3], [4, 5, 6, 7])
assert 0.049 < default < 0.05 and abs(exact - 2 / 35) < 1e-12
default, exact = p([1, 2, 3], [4, 5, 6])
assert abs(default - 0.1) < 1e-12
default, exact = p([1, 1, 1], [4, 4, 4])
assert 0.046 < default < 0.05 and abs(exact - 0.1) < 1e-12
EOF
