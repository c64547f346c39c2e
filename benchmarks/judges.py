"""What predicts a trial's end at a rung better than its score there: judges against the score, by cross-validation.

    python benchmarks/judges.py runs/digits-500 runs/toy2d       recorded runs in which nothing was stopped early
    python benchmarks/judges.py runs/digits-500 --trained 40     judges that know the ends of 40 trials, not of 20

For each arm of each run, and each evaluation in its first half: judges learn from the curves of a few trials that were
trained to their end, as the audit of a search has them, and rank all others. Counted is Kendall's rank correlation with
the end, over many random splits, and how much of it each judge gains on the plain score in the same split. Splits
share their trials, so the interval of an arm's gain is that of Nadeau and Bengio (2003), and that of all arms is theirs
as if each arm were one measurement. A judge is worth having where the latter lies above 0.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from orchestrator.runs import Run, RunFolder, load_runs, objectives

SPLITS, TRAINED, MOST = 20, 20, 150  # splits of an arm; trials that judges learn from; rivals in a split
ALPHAS = np.logspace(-1, 4, 11)
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Recorded:
    """The completed trials of one arm: costs at evaluations, by their logarithm where all are positive."""

    name: str
    steps: list[int]  # of the evaluations, the last is the end
    costs: Floats  # (trial, evaluation)
    options: Floats  # (trial, feature): choices as 0 and 1, numbers as they were drawn (logarithms of wide ranges)
    branch: Whole  # (trial,): equal where all choices are

    @property
    def ends(self) -> Floats:
        return self.costs[:, -1]

    def curve(self, rung: int) -> Floats:
        """(trial, 2): the score at the rung (an index), and its slope against the logarithm of steps."""
        if rung == 0:
            return self.costs[:, :1]
        rate = (self.costs[:, rung] - self.costs[:, rung - 1]) / math.log(self.steps[rung] / self.steps[rung - 1])
        return np.stack([self.costs[:, rung], rate], axis=1)


def recorded(run_folder: Path) -> list[Recorded]:
    """Every arm of a run with enough trials that completed with the same evaluations."""
    sweep = RunFolder(run_folder).read_sweep()["sweep"]
    objective = objectives(sweep)[0]
    sign, found = 1.0 if objective["direction"] == "minimize" else -1.0, []
    runs = [run for run in load_runs(run_folder) if run.stage == "search" and run.state == "completed"]
    for arm in sweep["arms"]:
        curves = {run.id: dict(run.judged(objective["metric"])) for run in runs if run.arm == arm}
        usual = max(curves.values(), key=len, default={})
        steps = sorted(step for step in usual if step > 0)
        whole = {name for name, c in curves.items() if set(steps) <= set(c) and all(map(math.isfinite, c.values()))}
        own = [run for run in runs if run.id in whole]
        if len(own) < TRAINED or len(steps) < 2:
            print(f"{run_folder.name} {arm}: {len(own)} complete curves are too few")
            continue
        costs = sign * np.array([[curves[run.id][step] for step in steps] for run in own])
        costs = np.log(costs) if (costs > 0).all() else costs
        found.append(Recorded(f"{run_folder.name} {arm}", steps, costs, *features(own)))
    return found


def features(runs: Sequence[Run]) -> tuple[Floats, Whole]:
    """What was chosen for each trial, as numbers, and which of them share all choices."""
    keys = sorted({key for run in runs for key in run.params})
    columns: list[Floats] = []
    choices: list[list[str]] = [[] for _ in runs]
    for key in keys:
        values = [run.params.get(key) for run in runs]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == sum(v is not None for v in values) and len(set(numbers)) > 10:
            wide = min(numbers) > 0 and max(numbers) / min(numbers) > 10
            column = np.array([math.nan if v is None else math.log10(v) if wide else v for v in values], dtype=float)
            column = np.where(np.isnan(column), np.nanmean(column), column)
            columns += [column, (column - column.mean()) ** 2]
            continue
        names = sorted({str(v) for v in values})
        columns += [np.array([float(str(v) == name) for v in values]) for name in names]
        if len(names) < 4:
            for own, v in zip(choices, values, strict=True):
                own.append(str(v))
    names = sorted({str(own) for own in choices})
    return np.stack(columns, axis=1), np.array([names.index(str(own)) for own in choices])


# ---- judges: (arm, rung, indices of trials that ended, indices of rivals) -> a cost for each rival -------------------

Judge = Callable[[Recorded, int, Whole, Whole], Floats]


def slope(arm: Recorded, rung: int, ended: Whole, rivals: Whole) -> Floats:
    """The line through the last two evaluations against the logarithm of steps, half as steep, at the end."""
    curve = arm.curve(rung)[rivals]
    return curve[:, 0] + (0.5 * curve[:, 1] * math.log(arm.steps[-1] / arm.steps[rung]) if rung else 0.0)


def branches(arm: Recorded, rung: int, ended: Whole, rivals: Whole) -> Floats:
    """The rank among rivals of the same choices, as a share: every branch sends its best."""
    ranks = np.empty(len(rivals))
    for branch in set(arm.branch[rivals].tolist()):
        own = np.flatnonzero(arm.branch[rivals] == branch)
        ranks[own] = (stats.rankdata(arm.costs[rivals[own], rung]) - 0.5) / len(own)
    return ranks


def _scaled(arm: Recorded, rung: int) -> Floats:
    return StandardScaler().fit_transform(np.hstack([arm.curve(rung), arm.options]))


def ridge(arm: Recorded, rung: int, ended: Whole, rivals: Whole) -> Floats:
    """A ridge regression of the end on score, slope and configuration."""
    given = _scaled(arm, rung)
    return RidgeCV(ALPHAS).fit(given[ended], arm.ends[ended]).predict(given[rivals])


def correction(arm: Recorded, rung: int, ended: Whole, rivals: Whole) -> Floats:
    """The same of what the end is beyond the line on the score: where little is known, the score decides."""
    given, score = _scaled(arm, rung), arm.costs[:, rung]
    line = np.polynomial.Polynomial.fit(score[ended], arm.ends[ended], 1)
    rest = RidgeCV(ALPHAS).fit(given[ended], arm.ends[ended] - line(score[ended])).predict(given[rivals])
    return line(score[rivals]) + rest


def process(arm: Recorded, rung: int, ended: Whole, rivals: Whole) -> Floats:
    """A Gaussian process of the end over score, slope and configuration, with a linear part."""
    given = _scaled(arm, rung)
    return _gaussian().fit(given[ended], arm.ends[ended]).predict(given[rivals])


def freeze_thaw(arm: Recorded, rung: int, ended: Whole, rivals: Whole) -> Floats:
    """A Gaussian process over configuration and step that knows all curves so far (as in DyHPO), plus the last miss."""
    options, times = StandardScaler().fit_transform(arm.options), np.log(np.array(arm.steps) / arm.steps[-1])

    def points(trials: Whole, evaluations: int) -> tuple[Floats, Floats]:
        grid = [np.hstack([options[trials], np.full((len(trials), 1), times[i])]) for i in range(evaluations)]
        return np.vstack(grid), arm.costs[trials, :evaluations].T.ravel()

    (known, values), (early, more) = points(ended, len(times)), points(rivals, rung + 1)
    model = _gaussian().fit(np.vstack([known, early]), np.concatenate([values, more]))
    end = np.hstack([options[rivals], np.zeros((len(rivals), 1))])
    here = np.hstack([options[rivals], np.full((len(rivals), 1), times[rung])])
    return model.predict(end) + arm.costs[rivals, rung] - model.predict(here)


def _gaussian() -> GaussianProcessRegressor:
    kernel = ConstantKernel() * RBF(3.0) + ConstantKernel() * DotProduct() + WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


JUDGES: dict[str, Judge] = {
    "slope": slope,
    "branches": branches,
    "ridge": ridge,
    "correction": correction,
    "gp": process,
    "freeze-thaw": freeze_thaw,
}


# ---- the table ---------------------------------------------------------------------------------------------------


def kendall(costs: Floats, ends: Floats) -> float:
    tau = float(stats.kendalltau(costs, ends).statistic)
    return 0.0 if math.isnan(tau) else tau


def gains(arm: Recorded, rung: int, trained: int, judges: Sequence[str]) -> tuple[list[float], dict[str, list[float]]]:
    """The score's correlation in each split, and what each judge gains on it."""
    draw, plain = np.random.default_rng(rung), []
    gained: dict[str, list[float]] = {name: [] for name in judges}
    for _ in range(SPLITS):
        order = draw.permutation(len(arm.ends))
        ended, rivals = order[:trained], order[trained : trained + MOST]
        plain.append(kendall(arm.costs[rivals, rung], arm.ends[rivals]))
        for name in judges:
            gained[name].append(kendall(JUDGES[name](arm, rung, ended, rivals), arm.ends[rivals]) - plain[-1])
    return plain, gained


def half_width(values: Sequence[float], ratio: float = 0.0) -> float:
    """Half of the 95 % interval of a mean; `ratio` is rivals per trial learned from where splits share trials."""
    count = len(values)
    if count < 2:
        return math.nan
    spread = float(np.var(values, ddof=1)) * (1 / count + ratio)
    return float(stats.t.ppf(0.975, count - 1)) * math.sqrt(spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--trained", type=int, default=TRAINED, help="trials that judges learn from (default 20)")
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=list(JUDGES), metavar="JUDGE")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    over_arms: dict[str, list[float]] = {name: [] for name in given.judges}
    print("| arm | step | trials | learned from | score | " + " | ".join(given.judges) + " |")
    print("|---|---|---|---|---|" + "---|" * len(given.judges))
    for arm in [arm for run in given.runs for arm in recorded(run)]:
        trained = min(given.trained, len(arm.ends) // 2)
        rivals = min(MOST, len(arm.ends) - trained)
        own: dict[str, list[float]] = {name: [] for name in given.judges}
        for rung, step in enumerate(arm.steps[:-1]):
            if step > arm.steps[-1] / 2:
                continue
            plain, gained = gains(arm, rung, trained, given.judges)
            cells = [f"{np.mean(g):+.2f} ± {half_width(g, rivals / trained):.2f}" for g in gained.values()]
            share = f"{step:,} ({step / arm.steps[-1]:.0%})"
            row = [arm.name, share, str(len(arm.ends)), str(trained), f"{np.mean(plain):.2f}", *cells]
            print("| " + " | ".join(row) + " |", flush=True)
            for name, values in gained.items():
                own[name].append(float(np.mean(values)))
        for name, values in own.items():
            over_arms[name] += [float(np.mean(values))] if values else []
    cells = [f"{np.mean(v):+.2f} ± {half_width(v):.2f}" if v else "-" for v in over_arms.values()]
    count = len(next(iter(over_arms.values())))
    print(f"| {count} arms, rungs of each averaged | | | | | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
