import itertools
import json

import pytest

from orchestrator.calibration import calibrate, kinds
from orchestrator.plan import (
    Line,
    Rates,
    along,
    hand_over,
    line_through,
    make_plan,
    makespan,
    over_budget,
    plan_at_start,
    plan_lines,
    rates_of_run,
    store_plan,
)
from orchestrator.runs import FORMAT, RunFolder, RunFolderError, load_runs, write_json

pytestmark = pytest.mark.slow

SWEEP = """
# Which?
name: study
data: digits
train: {steps: 70, batch_size: 5, ema_decay: 0.9}
evaluate: {every: 30, samples: 40, splits: 2, size: 64, reference: 100}
search: {trials: 11, sampler: random, pruner: PRUNER, objective: {metric: fd_lite0}}
arms:
  pixelcnn:
    model: {name: pixelcnn, layers: 1, planes: 6, skip_planes: 8}
    space: {optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
  pixeliqn:
    model: {name: pixeliqn, layers: 2, planes: 6, skip_planes: 8}
    space: {optimizer.name: [adam, sgd], model.planes: [6, 9]}
final: {top: 2, seeds: [0, 1, 7], steps: 130, evaluate: {samples: 90, initial: true}}
budget: {hours: 0.25}
"""
RATES = {
    "pixelcnn": Rates(0.5, {"search": [(40, 6.0)], "final": [(90, 11.0)]}, trial=3.0, disk=1e6, memory=2e8),
    "pixeliqn": Rates(0.7, {"search": [(40, 8.0)], "final": [(90, 18.0)]}, trial=1.0, disk=3e6, memory=1e8),
}


@pytest.fixture
def sweep(load):
    return load(SWEEP.replace("PRUNER", "none"))


def test_trials_steps_and_hours_by_hand(sweep, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    plan = make_plan(sweep, RATES, "by hand")
    counted = [(line.arm, line.stage, line.trials, line.steps, line.evaluations, line.samples) for line in plan.lines]
    assert counted == [
        ("pixelcnn", "search", 11, 70, 3, 40),
        ("pixelcnn", "final", 6, 130, 6, 90),  # at 0, 30, 60, 90, 120 and 130
        ("pixeliqn", "search", 11, 70, 3, 40),
        ("pixeliqn", "final", 6, 130, 6, 90),
    ]
    each = [3 + 70 * 0.5 + 3 * 6, 3 + 130 * 0.5 + 6 * 11, 1 + 70 * 0.7 + 3 * 8, 1 + 130 * 0.7 + 6 * 18]
    assert [line.seconds for line in plan.lines] == pytest.approx(each)
    assert plan.trial_seconds == pytest.approx(sum(each[i] * (11, 6)[i % 2] for i in range(4)))
    assert plan.device_hours() == pytest.approx(plan.trial_seconds / 3600)
    assert (plan.slots, plan.disk, plan.memory) == (3, 17e6 + 51e6, 6e8)
    assert plan.trial_seconds / 3 <= plan.wall_seconds <= plan.trial_seconds / 3 + max(each)


def test_one_worker_takes_as_long_as_all_trials_and_many_as_long_as_the_longest_chain():
    lines = (
        Line("a", "search", 5, 1, 1, 1, 7.0),
        Line("a", "final", 3, 1, 1, 1, 11.0),
        Line("b", "search", 4, 1, 1, 1, 13.0),
    )
    assert makespan(lines, 1) == 5 * 7 + 3 * 11 + 4 * 13
    assert makespan(lines, 100) == 7 + 11
    # Two workers: a0 b0 a1 b1 a2 b2 a3 b3 a4, and the finals of a, which start before b is done where they can.
    ends = [0.0, 0.0]
    for seconds in (7, 13, 7, 13, 7, 13, 7, 13, 7):
        ends[ends.index(min(ends))] += seconds
    searched = max(ends)
    assert makespan(lines, 2) <= searched + 2 * 11


def test_finals_start_while_the_other_arm_still_searches():
    lines = (
        Line("a", "search", 1, 1, 1, 1, 1.0),
        Line("a", "final", 1, 1, 1, 1, 50.0),
        Line("b", "search", 9, 1, 1, 1, 6.0),
    )
    assert makespan(lines, 2) == 9 * 6.0  # the final of a runs beside the search of b


def write_run(run, sweep, rates, evaluations=3, step=70):
    """Completed trials with exactly these rates, two at once."""
    for arm, one in rates.items():
        for number, (stage, [(drawn, each)]) in itertools.product(range(5), one.evaluation.items()):
            folder = run.trial(f"{arm}-{stage}-{number}")
            folder.path.mkdir(parents=True)
            config = kinds(sweep.arms[arm])[0].to_dict()
            content = {"format": FORMAT, "config": config, "params": {}, "seed": 0, "source": None, "provenance": {}}
            write_json(folder.config, content)
            scoring = [(i + 1) * each for i in range(evaluations)]
            records = [
                {"step": (i + 1) * step, "time": 0.0, "samples": drawn}
                | {"seconds": scoring[i] + (i + 1) * step * one.step, "evaluate_seconds": scoring[i]}
                for i in range(evaluations)
            ]
            folder.append_metrics(records)
            begin = 1000.0 * number
            status = {"state": "completed", "attempts": 1, "started": begin}
            write_json(folder.status, {**status, "updated": begin + records[-1]["seconds"] + one.trial})


def test_the_rates_of_a_recorded_run_are_found_again(sweep, tmp_path):
    run = RunFolder(tmp_path / "before")
    write_run(run, sweep, RATES)
    found = rates_of_run(run.path, sweep)
    handover = hand_over(load_runs(run.path))
    for arm, one in RATES.items():
        assert found[arm].step == pytest.approx(one.step)
        assert found[arm].evaluation.keys() == one.evaluation.keys()
        for stage, [(samples, seconds)] in one.evaluation.items():
            assert found[arm].evaluation[stage] == [(samples, pytest.approx(seconds))]
        assert found[arm].trial == pytest.approx(one.trial + handover)
        assert found[arm].disk > 0


def test_a_run_of_other_models_gives_no_rates(sweep, load, tmp_path):
    run = RunFolder(tmp_path / "before")
    write_run(run, sweep, RATES)
    with pytest.raises(RunFolderError, match=r"'pixelcnn' have model.layers = 1, this sweep 3"):
        rates_of_run(run.path, load(SWEEP.replace("PRUNER", "none").replace("layers: 1", "layers: 3")))
    with pytest.raises(RunFolderError, match="no completed trial of arm 'other'"):
        rates_of_run(run.path, load(SWEEP.replace("PRUNER", "none").replace("  pixelcnn:", "  other:")))


def test_a_stage_that_was_not_measured_evaluates_as_the_other():
    rates = Rates(step=1.0, evaluation={"search": [(10, 3.0), (30, 7.0)]}, trial=0.0, disk=0.0)
    assert rates.seconds("final", steps=5, evaluations=2, samples=50) == pytest.approx(5 + 2 * 11)


def test_seconds_between_and_beyond_measured_evaluations():
    points = [(10, 3.0), (30, 7.0), (50, 17.0)]
    measured = [along(points, samples) for samples in (10, 20, 30, 45, 50)]
    assert measured == pytest.approx([3.0, 5.0, 7.0, 14.5, 17.0])
    assert along(points, 5) == pytest.approx(2.0)
    assert along(points, 100) == pytest.approx(34.0)  # by the last two: proportional, for their line starts below 0
    assert along([(10, 3.0)], 25) == pytest.approx(7.5)


def test_a_line_through_two_evaluations():
    assert line_through(10, 3.0, 30, 7.0) == pytest.approx((1.0, 0.2))
    assert line_through(10, 1.0, 30, 9.0) == pytest.approx((0.0, 0.3))  # never below 0: through the larger alone
    assert line_through(10, 2.0, 30, 1.5) == pytest.approx((0.0, 0.05))  # noise


def test_the_plan_is_kept_until_trials_start_and_made_again_from_its_rates(sweep, load, tmp_path):
    run = RunFolder(tmp_path / "study")
    plan_at_start(run, sweep)
    before = json.loads(run.plan.read_text())
    assert (before["basis"], before["wall_seconds"], before["rates"]) == ("", None, {})
    store_plan(run, make_plan(sweep, RATES, "by hand"), RATES)
    plan_at_start(run, load(SWEEP.replace("PRUNER", "none"), ["search.trials=13"]))
    stored = json.loads(run.plan.read_text())
    assert stored["basis"] == "by hand"
    assert stored["lines"][0]["trials"] == 13
    assert stored["lines"][0]["seconds"] == pytest.approx(56)
    run.trial("pixelcnn-search-0").path.mkdir(parents=True)
    plan_at_start(run, load(SWEEP.replace("PRUNER", "none"), ["search.trials=13"]))
    store_plan(run, make_plan(sweep, RATES, "hindsight"), RATES)
    assert json.loads(run.plan.read_text()) == stored


def test_an_extended_sweep_has_the_plan_of_the_sweep_as_it_is_now(sweep, load, tmp_path):
    run = RunFolder(tmp_path / "study")
    store_plan(run, make_plan(sweep, RATES, "by hand"), RATES)
    first = json.loads(run.plan.read_text())
    run.trial("pixelcnn-search-0").path.mkdir(parents=True)
    plan_at_start(run, load(SWEEP.replace("PRUNER", "none"), ["search.trials=23"]))
    stored = json.loads(run.plan.read_text())
    assert (stored["lines"][0]["trials"], stored["extended"], stored["basis"]) == (23, True, "by hand")
    assert stored["lines"][0]["seconds"] == first["lines"][0]["seconds"]  # by the rates of before, no hindsight
    assert stored["rates"] == first["rates"]


def test_the_plan_in_words_and_above_its_budget(load, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    sweep = load(SWEEP.replace("PRUNER", "median"))
    plan = make_plan(sweep, RATES, "the times recorded in runs/before")
    text = "\n".join(plan_lines(plan))
    row = ["pixelcnn", "search", "11", "70", "3", "of", "40", "samples", "56", "s", "0.17"]
    assert [line.split() for line in plan_lines(plan)][1] == row
    assert "an upper bound: the pruner stops trials early" in text
    assert "disk        68 MB" in text
    (above,) = over_budget(plan, sweep)
    assert above == f"planned {plan.wall_seconds / 3600:.2f} hours, above budget.hours = 0.25"
    assert over_budget(make_plan(sweep), sweep) == []
    assert "add --calibrate" in plan_lines(make_plan(sweep))[-1]


def test_gpus_hold_fractions_and_multiples(load):
    for gpu, gpus, slots in ((1, 3, 3), (0.5, 3, 6), (0.3, 2, 6), (2, 5, 2), (2, 1, 1)):
        sweep = load(SWEEP.replace("PRUNER", "none") + f"resources: {{gpu: {gpu}}}\n")
        plan = make_plan(sweep, RATES, "x", gpus)
        assert plan.slots == slots
        assert plan.unit == "GPU-hours"
        assert plan.device_hours() == pytest.approx(plan.trial_seconds * gpu / 3600)


def test_a_trial_of_several_workers_holds_as_many_devices(load, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(11)))
    for resources, gpus, slots, each in (("gpu: 1, workers: 3", 7, 2, 3), ("cpu: 2, workers: 2", None, 2, 4)):
        plan = make_plan(load(SWEEP.replace("PRUNER", "none") + f"resources: {{{resources}}}\n"), RATES, "x", gpus)
        assert plan.slots == slots
        assert plan.device_hours() == pytest.approx(plan.trial_seconds * each / 3600)


def test_calibration_runs_real_trials_of_each_kind(sweep):
    planes = [(config.optimizer.name, config.model.planes) for config in kinds(sweep.arms["pixeliqn"])]
    assert set(planes) == {("adam", 6), ("adam", 9), ("sgd", 6)}
    found = calibrate(sweep, seconds=0.1)
    assert found.keys() == sweep.arms.keys()
    for rates in found.values():
        assert 0 < rates.step < 5
        assert [count for count, _ in rates.evaluation["search"]] == [32, 64]
        assert [count for count, _ in rates.evaluation["final"]] == [32, 90]
        assert all(seconds > 0 for points in rates.evaluation.values() for _, seconds in points)
        assert rates.disk > 1000
        assert rates.memory > 1e7


def test_a_search_with_rungs_is_priced_by_what_its_mean_trial_trains(load):
    plan = make_plan(load(SWEEP.replace("PRUNER", "{name: promote, first: 0.3, audit: 0.0}")), RATES, "by hand")
    (line,) = [line for line in plan.lines if (line.arm, line.stage) == ("pixelcnn", "search")]
    # The only rung is at 30 of 70: eleven trials come to it, three go on.
    assert line.steps == -(-(11 * 30 + 3 * 40) // 11)
    assert not plan.upper_bound
    assert "stops trials early" not in "\n".join(plan_lines(plan))


def test_a_trial_that_is_parked_starts_again_and_is_evaluated_where_it_trains(load):
    text = SWEEP.replace("PRUNER", "{name: promote, first: 0.3, reduction_factor: 2, audit: 0.0}")
    text = text.replace("every: 30", "every: 70, at: [21, 49]")
    line, *_ = (line for line in make_plan(load(text), RATES, "by hand").lines if line.rungs)
    # Eleven trials come to the first rung, five to the second, two to the end; each stay is a start.
    assert line.rungs == ((21, 11), (49, 5), (70, 2))
    stays = 11 + 5 + 2
    assert line.starts == pytest.approx(stays / 11)
    assert line.steps == -(-(11 * 21 + 5 * 28 + 2 * 21) // 11)
    assert line.evaluations == -(-stays // 11)
    rates = RATES[line.arm]
    per = along(rates.evaluation["search"], line.samples)
    steps = 11 * 21 + 5 * 28 + 2 * 21
    assert line.seconds * 11 == pytest.approx(stays * rates.trial + steps * rates.step + stays * per)
    told = "\n".join(plan_lines(make_plan(load(text), RATES, "by hand")))
    assert (
        "pixelcnn search: 11 to step 21 -> 5 to step 49 -> 2 to step 70, besides the audit; 1.64 starts a trial" in told
    )
