import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from run_folders import (
    FLOOR,
    SEEDS,
    distance,
    finals_by_hand,
    record,
    results_with,
    write_baselines,
    write_sweep,
    write_trial,
)

from orchestrator.runs import RunFolder, write_json
from reports.answer import answer as answer_of
from reports.comparison import comparison
from reports.results import read_results
from reports.rounding import rounded
from reports.search_tables import verdict_table


def test_answer_names_the_better_arm_with_both_numbers_and_the_caveat(finished: RunFolder) -> None:
    answer = answer_of(read_results(finished.path))
    shown = {arm: f"{statistics.mean(finals_by_hand(finished, arm, 'fd_lite0')):.2f}" for arm in FLOOR}
    assert answer.sentence.startswith(f"pixeliqn reaches the lower fd_lite0: {shown['pixeliqn']} ± 0.57")
    assert f"{shown['pixelcnn']} ± 0.57 for pixelcnn" in answer.sentence
    assert "2 seeds" in answer.qualifier
    assert "Welch's t-test, p = 0.0011" in answer.sentence
    assert "is_lite0_mean ranks them the same way" in answer.qualifier
    assert answer.leader == "pixeliqn"


def test_answer_follows_the_direction_of_the_objective(folder: RunFolder) -> None:
    search = {"trials": 6, "objective": {"metric": "is_lite0_mean", "direction": "maximize"}}
    write_sweep(folder, search=search)
    sentence = answer_of(read_results(folder.path)).sentence
    assert sentence.startswith("pixeliqn reaches the higher is_lite0_mean")


def test_seeds_that_overlap_give_no_winner(folder: RunFolder) -> None:
    shift = distance("pixelcnn", 4, 1500, 1000) - distance("pixeliqn", 4, 1500, 1000)
    for seed, offset in zip(SEEDS, (0.3, -0.9), strict=True):
        shutil.rmtree(folder.trial(f"pixeliqn-final-{seed}").path)
        history = [record("pixeliqn", 4, 1500, 1000, shift=shift + offset)]
        write_trial(folder, "pixeliqn", "final", seed, history, seed=seed, source=4)
    answer = answer_of(read_results(folder.path))
    assert answer.sentence.startswith("No clear difference")
    assert answer.leader is None


def test_finals_of_different_protocols_are_not_compared(folder: RunFolder) -> None:
    for seed in SEEDS:
        shutil.rmtree(folder.trial(f"pixeliqn-final-{seed}").path)
        write_trial(folder, "pixeliqn", "final", seed, [record("pixeliqn", 4, 1500, 777)], seed=seed, source=4)
    results = read_results(folder.path)
    assert answer_of(results).sentence.startswith("Not comparable: the finals were measured with different samples")
    assert any("samples is not the same in all final trials (1000, 777)" in n for n in comparison(results).notes)


def test_without_finals_the_search_answers_with_its_own_caveat(folder: RunFolder) -> None:
    for path in folder.trials.glob("*-final-*"):
        shutil.rmtree(path)
    answer = answer_of(read_results(folder.path))
    expected = [rounded(distance(arm, 4, 600, 512)) for arm in ("pixeliqn", "pixelcnn")]
    assert f"{expected[0]} for pixeliqn, {expected[1]} for pixelcnn" in answer.sentence
    assert "optimistic" in answer.qualifier
    assert "512 samples" in answer.qualifier


def test_the_best_of_three_must_be_distinguishable_from_both(folder: RunFolder) -> None:
    """The third arm's mean is the worst, but its seeds are so far apart that it may be the best."""
    sweep = json.loads(folder.sweep_json.read_text())
    sweep["sweep"]["arms"]["third"] = sweep["sweep"]["arms"]["pixelcnn"]
    write_json(folder.sweep_json, sweep)
    for seed, shift in zip(SEEDS, (-40.0, 90.0), strict=True):
        history = [record("pixelcnn", 4, 1500, 1000, shift=shift)]
        write_trial(folder, "third", "final", seed, history, seed=seed, source=4)
    answer = answer_of(read_results(folder.path))
    assert answer.sentence.startswith("No clear lead: pixeliqn cannot be told apart from third; ")
    assert answer.sentence.endswith("Welch's t-test: pixeliqn is better than pixelcnn (p = 0.0033).")
    assert answer.leader is None


def test_the_headline_names_the_pairs_that_the_table_names(tmp_path: Path) -> None:
    """Two arms lead together and one of them, not the first, is told apart from the third."""
    values = {"cnn": [10.0, 10.1, 10.2], "iqn": [9.0, 11.8, 8.2], "snail": [14.0, 14.3, 14.1]}
    results = results_with(tmp_path, values)
    table = verdict_table(results).shown.set_index("Pair")
    assert table["Verdict"].tolist() == ["not distinguishable", "not distinguishable", "better"]
    sentence = answer_of(results).sentence
    assert sentence.startswith("No clear lead: iqn cannot be told apart from cnn or snail; fd_lite0 is 9.7 ± 1.9 for")
    assert sentence.endswith(f"Welch's t-test: cnn is better than snail (p = {table['p']['cnn against snail']}).")
    assert comparison(results).strong == frozenset()


def test_numbers_in_different_units_are_not_compared(tmp_path: Path) -> None:
    results = results_with(tmp_path, {"pixelcnn": [3.6, 3.8], "pixeliqn": [0.1, 0.11]}, objective="loss")
    answer, table = answer_of(results), verdict_table(results)
    assert answer.sentence.startswith(
        "No verdict: loss is not the same quantity in all arms (pixelcnn: nats per sub-pixel; "
    )
    assert answer.leader is None
    assert comparison(results).strong == frozenset()
    (row,) = table.shown.to_dict(orient="records")
    assert row.pop("Pair") == "pixelcnn against pixeliqn"
    assert list(row.values()) == ["not comparable", "—", "—", "—", "—", "—"]


def opinion(path: Path, first: list[float], real: float | None = 3.4, **changes: Any) -> str:
    """What is said of is_lite0_mean where fd_lite0 has a ahead of b, and real images score `real`."""
    finals = {"a": [2.0, 2.1, 2.2], "b": [3.0, 3.1, 3.2]}
    results_with(path, finals, is_lite0_mean={"a": first, "b": [1.091, 1.101, 1.095]}, **changes)
    if real is not None:
        write_baselines(RunFolder(path), is_lite0_mean=real)
    return answer_of(read_results(path)).qualifier


def test_another_metric_agrees_only_where_it_tells_the_arms_apart(tmp_path: Path) -> None:
    for name, first, says in (
        ("close", [1.10, 1.09, 1.08], "is_lite0_mean does not tell them apart: "),
        ("agrees", [1.5, 1.51, 1.52], "is_lite0_mean ranks them the same way (p = "),
        ("opposes", [1.01, 1.02, 1.03], "is_lite0_mean does not agree (p = "),
    ):
        assert says in opinion(tmp_path / name, first)
    one = results_with(tmp_path / "one", {"a": [2.0], "b": [3.0]}, is_lite0_mean={"a": [1.5], "b": [1.1]})
    assert "is_lite0_mean" not in answer_of(one).qualifier


def test_an_inception_score_agrees_only_below_that_of_real_images(tmp_path: Path) -> None:
    said = opinion(tmp_path / "above", [1.5, 1.51, 1.52], real=1.4)
    assert "is_lite0_mean decides nothing: is_lite0_mean of real images is 1.400, that of a more, which damage" in said
    assert "ranks" not in said
    assert "is_lite0_mean is higher for a (p = " in opinion(tmp_path / "unknown", [1.5, 1.51, 1.52], real=None)


def test_it_is_no_verdict_either_where_it_is_the_objective(tmp_path: Path) -> None:
    finals = {"a": [1.5, 1.51, 1.52], "b": [1.091, 1.101, 1.095]}
    results_with(tmp_path, finals, objective="is_lite0_mean", direction="maximize")
    write_baselines(RunFolder(tmp_path), is_lite0_mean=1.4)
    results = read_results(tmp_path)
    assert answer_of(results).sentence.startswith(
        "Not comparable: is_lite0_mean of real images is 1.400, that of a more"
    )
    assert not comparison(results).strong
    assert verdict_table(results).shown["Verdict"].tolist() == ["not comparable"]
    write_baselines(RunFolder(tmp_path), is_lite0_mean=1.6)
    assert answer_of(read_results(tmp_path)).leader == "a"


def test_two_distances_that_disagree_are_said_to(tmp_path: Path) -> None:
    words = "disagree beyond their errors"
    collapsed = {"a": [0.02, 0.03, 0.025], "b": [0.61, 0.62, 0.615]}
    kernel = {"a": [0.5, 0.51, 0.52], "b": [0.1, 0.11, 0.12]}
    agreeing = {"a": [0.1, 0.11, 0.12], "b": [0.5, 0.51, 0.52]}
    said = opinion(tmp_path / "coverage", [1.5, 1.51, 1.52], coverage_lite0=collapsed)
    assert "coverage_lite0 does not agree (p = " in said
    assert f"fd_lite0 and coverage_lite0 {words}" in said
    said = opinion(tmp_path / "both", [1.5, 1.51, 1.52], coverage_lite0=collapsed, kd_lite0=kernel)
    assert f"fd_lite0 and coverage_lite0 and kd_lite0 {words}" in said
    said = opinion(tmp_path / "neither", [1.5, 1.51, 1.52], kd_lite0=agreeing)
    assert words not in said
    assert "kd_lite0" not in said


def test_one_seed_is_not_tested_anywhere(tmp_path: Path) -> None:
    results = results_with(tmp_path, {"a": [2.0], "b": [3.0]})
    assert answer_of(results).sentence.startswith("Not tested: fd_lite0 is 2.000 for a, 3.000 for b.")
    assert verdict_table(results).shown["Verdict"].tolist() == ["not tested"]
