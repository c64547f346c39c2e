#!/usr/bin/env bash
# NumPy 2.4.6: default_rng(s), default_rng([s, 0]) and default_rng([s, 0, 0, 0]) are the same stream. SeedSequence
# fills its pool of four 32-bit words up with zeros, so trailing zeros of a short seed do not count; from the
# fifth word on they do. A word of more than 32 bits is split, low half first, so [s, 2**32] is the same as [s, 0,
# 1].
#
# Seen: default_rng(1), [1, 0] and [1, 0, 0, 0] all begin with 0.5118216247002567; [1, 0, 0, 0, 0] begins with
# 0.6990345474368357; [1, 2**32] and [1, 0, 1] both with 0.6922753364723951.
#
# Why it matters: default_rng([sweep_seed, trial_index]) is the usual way to give each trial its own stream. Trial
# 0 then shares its stream with the sweep's own generator default_rng(sweep_seed) (say, the one that split the
# data), and with [sweep_seed, 0, 0] two levels down: fold 0 of trial 0.
#
# What to do: use SeedSequence(sweep_seed).spawn(n) or spawn_key=(trial, fold), which count zeros, or begin
# indices at 1.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import numpy as np


def first(seed):
    return np.random.default_rng(seed).random()


print("numpy", np.__version__)
for seed in (1, [1, 0], [1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 2**32], [1, 0, 1]):
    print(seed, "->", first(seed))
assert first(1) == first([1, 0]) == first([1, 0, 0]) == first([1, 0, 0, 0])
assert first(1) != first([1, 0, 0, 0, 0])
assert first([1, 2**32]) == first([1, 0, 1])
spawned = [first(np.random.SeedSequence(1, spawn_key=key)) for key in ((), (0,), (0, 0), (0, 0, 0))]
print("spawn keys (), (0,), (0, 0), (0, 0, 0) ->", spawned)
assert len(set(spawned)) == 4
EOF
