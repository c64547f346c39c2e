#!/usr/bin/env bash
# PyTorch 2.13.0, ReduceLROnPlateau with its default arguments: on a loss that is negative it never reduces the
# learning rate, not even when the loss stands still or slowly gets worse. The default threshold is relative, best
# * (1 - 0.0001), and for a negative best this lies above the best, so an equal or slightly worse value counts as
# an improvement, and becomes the new best. mode="max" has the mirrored fault for negative scores.
#
# Seen: eight epochs at 100 with patience 2: 1.0 down to 0.01. Eight at -100: 1.0 throughout. Thirty epochs rising
# from -100 by 0.005 each: 1.0 throughout, and the scheduler's best had drifted up to -99.855.
#
# Why it matters: log-likelihoods of densities, ELBOs and critics' losses are negative. In a sweep over losses the
# same schedule works in one arm and is silently absent in the other, and arms that train below zero look as if
# the schedule did not help them.
#
# What to do: pass threshold_mode="abs", which behaves alike on both sides of zero.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile torch==2.13.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import torch


def rates(losses, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, **options)
    seen = []
    for loss in losses:
        scheduler.step(loss)
        seen.append(round(optimizer.param_groups[0]["lr"], 6))
    print(options, losses[0], "...", losses[-1], "-> rates", seen[0], "...", seen[-1], "best", scheduler.best)
    return seen, scheduler.best


print("torch", torch.__version__)
worse = [-100 + 0.005 * i for i in range(30)]
assert rates([100.0] * 8)[0][-1] == 0.01
assert set(rates([-100.0] * 8)[0]) == {1.0}
assert set(rates([-100.0] * 8, mode="max")[0]) == {1.0}
seen, best = rates(worse)
assert set(seen) == {1.0} and best == worse[-1]
assert rates([-100.0] * 8, threshold_mode="abs")[0] == rates([100.0] * 8, threshold_mode="abs")[0]
assert rates(worse, threshold_mode="abs")[0][-1] < 0.01
EOF
