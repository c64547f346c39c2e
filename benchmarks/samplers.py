"""Whether each sampler learns: on a diverging, a pruned, a branched and a finite space, against random search.

    python benchmarks/samplers.py                     about three minutes on two idle cores
    python benchmarks/samplers.py finite pruned       these spaces alone
    python benchmarks/samplers.py --json numbers.json

Nothing is trained: each trial's end, and its curve, is a formula whose best is known. Counted are the late trials (the
last quarter of a search) that are among the best tenth of what random search finds in the same run; it has 10 % of its
own, and a sampler that does not have twice as many has not learned.
"""

import itertools
import math
import random
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import torch
from measure import Row, not_measured, publish
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler
from optuna.trial import TrialState

from aiqn_core.config import ConfigError
from orchestrator.branches import branches
from orchestrator.rungs import completed, fewest_arrivals
from orchestrator.samplers import is_pruned, make_pruner, make_sampler
from orchestrator.space import Number, Space, grid, suggest

STEPS = 27
RATE, EPS = {"low": 1e-6, "high": 1.0, "log": True}, {"low": 1e-8, "high": 1e-4, "log": True}
DECAY = {"low": 0.5, "high": 0.99}
ADAM, SGD = {"optimizer.lr": RATE, "optimizer.eps": EPS}, {"optimizer.lr": RATE, "optimizer.momentum": DECAY}
KINDS = {
    "diverging": {"optimizer.lr": {**RATE, "high": 1e2}, "train.ema_decay": DECAY},
    "pruned": {"optimizer.lr": RATE, "train.ema_decay": DECAY, "optimizer.eps": EPS},
    "branched": {"optimizer.name": {"adam": ADAM, "sgd": SGD}, "train.ema_decay": DECAY},
    "finite": {
        "model.layers": {"low": 1, "high": 9},
        "model.planes": {"low": 8, "high": 64, "step": 8},
        "optimizer.name": ["adam", "rmsprop", "sgd"],
    },
}
TRIALS = {"gp": 32, "nsga2": 300}  # a Gaussian process takes its time; a genetic search begins with fifty at random
USUAL = 120
SEEDS = (1, 2, 3)
OWN = {"gp": GPSampler, "cmaes": CmaEsSampler, "nsga2": NSGAIISampler}  # as Optuna has them


def loss(kind: str, params: dict[str, Any]) -> float | None:
    """How bad a configuration is, None where it diverges. The best is 0, in no corner of its space."""
    if kind == "finite":
        far = ((params["model.layers"] - 6) / 2) ** 2 + ((params["model.planes"] - 40) / 16) ** 2
        return float(far + ("rmsprop", "adam", "sgd").index(params["optimizer.name"]))
    sgd = params.get("optimizer.name") == "sgd"
    off = math.log10(params["optimizer.lr"] / (3e-2 if sgd else 1e-3))
    if kind == "diverging" and off > 1:
        return None
    found = off**2 + 16 * (params["train.ema_decay"] - 0.8) ** 2
    found += 0.2 * math.log10(params["optimizer.eps"] / 1e-6) ** 2 if "optimizer.eps" in params else 0.0
    return found + (0.1 + (params["optimizer.momentum"] - 0.9) ** 2 if sgd else 0.0)


def search(kind: str, name: str, trials: int, seed: int, alone: bool = False) -> list[float]:
    """The losses of a search by number, inf for a divergence; each trial has a new sampler, as in the ledger."""
    space, draw = Space.from_dict(KINDS[kind]), random.Random(seed)
    pruner = completed({"name": "asha" if kind == "pruned" else "none"}, 1, STEPS)
    study, losses = optuna.create_study(pruner=make_pruner(pruner, "minimize")), []
    for number in range(trials):
        mixed = random.Random(f"{seed}/{number}").getrandbits(31)
        study.sampler = OWN[name](seed=mixed) if alone else make_sampler({"name": name}, seed, space, number)
        trial = study.ask()
        value, stop = loss(kind, suggest(trial, space)), False
        losses.append(math.inf if value is None else value)
        for step in range(1, STEPS) if value is not None and kind == "pruned" else ():
            trial.report(value + 5 * math.exp(-step / 8) + draw.gauss(0, 0.1) / step, step)
            if stop := is_pruned(trial, fewest_arrivals(pruner, None)):
                break
        bad = stop or value is None
        study.tell(trial, None if bad else value, state=TrialState.PRUNED if bad else TrialState.COMPLETE)
    return losses


def late(kind: str, name: str, bound: float, alone: bool = False) -> float:
    """The share of late trials whose loss is below a bound, over all seeds."""
    trials = TRIALS.get(name, USUAL)
    searches = [search(kind, name, trials, seed, alone) for seed in SEEDS[: 2 if name == "gp" else 3]]
    found = list(itertools.chain.from_iterable(losses[-trials // 4 :] for losses in searches))
    return sum(value <= bound for value in found) / len(found)


def possible(kind: str, name: str) -> bool:
    """Whether a sweep file may ask for a sampler in a space: a grid has no ranges, and cmaes nothing else."""
    space = Space.from_dict(KINDS[kind])
    if name == "cmaes":
        return all(sum(isinstance(one, Number) for one in open_there) > 1 for _, open_there in branches(space))
    try:
        return name != "grid" or bool(grid(space))
    except ConfigError:
        return False


def rows() -> Iterator[Row]:
    for kind in [kind for kind in KINDS if kind in sys.argv[1:]] or KINDS:
        random_search = [value for seed in range(10, 20) for value in search(kind, "random", 100, seed)]
        bound = sorted(random_search)[len(random_search) // 10]
        chance = late(kind, "random", bound)
        yield Row(f"{kind}, random", chance, chance, "of late", 1.0, "")
        for name in ("grid", "qmc", "tpe", "gp", "cmaes", "nsga2"):
            learns = name not in ("grid", "qmc")
            goal = ">= 2 x random's" if learns else ""
            if not possible(kind, name):
                yield not_measured(f"{kind}, {name}: refused", "of late")
                continue
            begin = time.perf_counter()
            ours = late(kind, name, bound)
            what = f"{kind}, {name}" + ("" if learns else " (goes by the number, learns nothing)")
            yield Row(what, ours, chance, "of late", ours / chance, goal)
            if name in OWN and kind != "finite":
                before = late(kind, name, bound, alone=True)
                yield Row(f"{kind}, {name} as Optuna has it", before, chance, "of late", before / chance, "")
            print(f"{what}: {ours:.2f} of late, after {time.perf_counter() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # more make a Gaussian process of 60 points slower
    publish("samplers", list(rows()), {"late": "the last quarter of a search", "seeds": len(SEEDS)})
