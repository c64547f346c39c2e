"""Pareto fronts in reports, compared with a slow definition."""

import math
import random
from pathlib import Path

from orchestrator.runs import RunFolder
from reports.comparison import comparison
from reports.html import write_report
from reports.pareto import pareto_figures, pareto_table
from reports.results import ranked, read_results
from tests.run_folders import facts, write_sweep, write_trial

OBJECTIVES = [
    {"metric": "fd_lite0", "direction": "minimize"},
    {"metric": "is_lite0_mean", "direction": "maximize"},
]


def two_objectives(path: Path) -> dict[str, list[tuple[float, float]]]:
    """A run folder of two arms with 7 and 11 search trials, of which one diverged and one has no second value."""
    folder, draw = RunFolder(path), random.Random(5)
    arms = {"pixelcnn": 7, "pixeliqn": 11}
    write_sweep(folder, arms=tuple(arms), search={"trials": 11, "objective": OBJECTIVES})
    values = {arm: [(draw.uniform(1, 9), draw.uniform(1, 3)) for _ in range(count)] for arm, count in arms.items()}
    for arm, pairs in values.items():
        for number, (distance, score) in enumerate(pairs):
            record = {"step": 5, "samples": 13, "seconds": 1.0, "fd_lite0": distance, "is_lite0_mean": score}
            write_trial(folder, arm, "search", number, [record])
    write_trial(folder, "pixelcnn", "search", 7, [{"step": 5, "fd_lite0": 0.1, "is_lite0_mean": 3.5}], state="diverged")
    write_trial(folder, "pixelcnn", "search", 8, [{"step": 5, "fd_lite0": 0.1}])
    return values


def test_the_front_is_what_no_trial_of_its_arm_beats(tmp_path):
    values = two_objectives(tmp_path)
    results = read_results(tmp_path)
    assert [metric.name for metric in results.metrics] == ["fd_lite0", "is_lite0_mean"]
    found = pareto_table(results).data
    for arm, pairs in values.items():
        slow = {
            number
            for number, (distance, score) in enumerate(pairs)
            if not any(d <= distance and s >= score and (d, s) != (distance, score) for d, s in pairs)
        }
        trials = found[found["arm"] == arm]["trial"].tolist()
        assert {int(trial.rpartition("-")[2]) for trial in trials} == slow
        assert found[found["arm"] == arm]["fd_lite0"].is_monotonic_increasing
        order = [run.number for run in ranked(results, arm)]
        assert set(order[: len(slow)]) == slow
        assert len(order) == len(pairs)


def test_the_page_has_the_front_as_table_and_figure_and_says_how_finals_are_chosen(tmp_path):
    two_objectives(tmp_path)
    page = write_report(tmp_path).read_text()
    assert "the Pareto front over fd_lite0 and is_lite0_mean first, in it by fd_lite0" in page
    (figure,) = pareto_figures(read_results(tmp_path), tmp_path / "figures")
    assert figure.name == "pareto-fd_lite0-is_lite0_mean"
    assert (tmp_path / "figures" / "pareto-fd_lite0-is_lite0_mean.pdf").stat().st_size > 0


def test_a_metric_that_was_not_asked_for_is_not_shown(tmp_path):
    folder = RunFolder(tmp_path)
    objectives = [{"metric": name, "direction": "minimize"} for name in ("energy_distance", "loss")]
    write_sweep(folder, arms=("made", "aiqn"), search={"trials": 3, "objective": objectives})
    record = {"step": 5, "energy_distance": 0.5, "loss": 2.5, "wasserstein1_mean": 0.25, "test_nll": math.pi}
    write_trial(folder, "made", "search", 0, [record])
    results = read_results(tmp_path)
    assert [(metric.name, metric.comparable) for metric in results.metrics] == [
        ("energy_distance", True),
        ("loss", False),
    ]
    assert "nats per vector" in results.metrics[1].why
    assert facts("made")["loss"]["unit"] == "nats per vector"


def test_with_one_objective_there_is_no_front(tmp_path):
    folder = RunFolder(tmp_path)
    write_sweep(folder)
    write_trial(folder, "pixelcnn", "search", 0, [{"step": 5, "fd_lite0": 2.5}])
    results = read_results(tmp_path)
    assert pareto_figures(results, tmp_path) == []
    assert pareto_table(results).data.empty


def test_every_objective_has_its_sentence_its_verdicts_and_its_figures(tmp_path):
    two_objectives(tmp_path)
    folder = RunFolder(tmp_path)
    for place, arm in enumerate(("pixelcnn", "pixeliqn")):
        for seed in range(3):
            scores = {"fd_lite0": 5 + 7 * place + 0.1 * seed, "is_lite0_mean": 1.5 + 0.5 * place + 0.01 * seed}
            record = {"step": 11, "samples": 17, "seconds": 1.0, **scores}
            write_trial(folder, arm, "final", seed, [record], seed=seed, source=2)
    page = write_report(tmp_path).read_text()
    said = (tmp_path / "report" / "answer.md").read_text()
    assert "pixelcnn reaches the lower fd_lite0" in said
    assert "pixeliqn reaches the higher is_lite0_mean" in said
    assert "Ahead in is_lite0_mean by" in said
    assert "ranks them the same way" not in said  # an objective is no second opinion
    for name in ("verdicts", "verdicts-is_lite0_mean", "budget-is_lite0_mean", "search-order-is_lite0_mean"):
        assert list((tmp_path / "report").glob(f"{name}.*")), name
    strong = comparison(read_results(tmp_path)).strong
    assert strong == {(0, "Final fd_lite0 ↓"), (1, "Final is_lite0_mean ↑")}
    assert "is_lite0_mean of every search trial in order" in page
