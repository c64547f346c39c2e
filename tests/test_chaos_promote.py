"""A promoting search whose driver is killed twenty times: nothing lost, trained twice or changed, nor who is promoted.

Not part of `make test`: `make chaos` runs it.
"""

import random
import time

import pytest
from chaos import Driver, folder_of, sweep_text
from measured import numbers

from orchestrator.runs import load_runs

pytestmark = pytest.mark.chaos
KILLS, PLAIN = 20, 5
PROMOTE = "sampler: random, pruner: {name: promote, first: 0.1, audit: 0.1}"


def text(promote):
    """The sweep of the chaos tests with rungs at 10 and 30 of 60 steps; without any, its first trials alone."""
    written = sweep_text() if promote else sweep_text(trials=PLAIN, final="")
    return written.replace("every: 20", "every: 10").replace(
        "sampler: random", PROMOTE if promote else "sampler: random"
    )


def ended_at(run):
    """How each trial has ended, and at which step."""
    return {item.id: (item.state, item.history[-1]["step"]) for item in load_runs(run.path)}


def measured(run):
    """How many evaluations there are in all."""
    return sum(len(item.history) for item in load_runs(run.path)) if run.trials.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run folders of the sweep with rungs, and without any."""
    found = []
    for promote in (True, False):
        folder = tmp_path_factory.mktemp("promote" if promote else "none")
        with Driver(folder, text(promote)) as driver:
            driver.finish()
        found.append(folder_of(folder))
    return found


def test_a_promoted_trial_has_the_numbers_of_one_that_was_never_parked(undisturbed):
    promoting, plain = map(numbers, undisturbed)
    states = ended_at(undisturbed[0])
    assert {state for state, _ in states.values()} == {"parked", "completed"}
    assert len(promoting) == 40
    assert len(plain) == 2 * PLAIN
    for trial in plain:  # all that it measured, to the last bit
        *asked, _, history = promoting[trial]
        *known, _, whole = plain[trial]
        assert (asked, history) == (known, whole[: len(history)])
    stays = [item.status["attempts"] for item in load_runs(undisturbed[0].path)]
    assert max(stays) == 3  # some were parked at both rungs


def test_a_promoting_driver_killed_twenty_times_at_random_moments(undisturbed, tmp_path):
    chance, run = random.Random(20), folder_of(tmp_path)
    for _ in range(KILLS):
        before = measured(run)
        with Driver(tmp_path, text(True)) as driver:
            if chance.random() < 0.3:  # while it starts
                time.sleep(chance.uniform(0.0, 7.0))
            else:  # while it trains
                driver.wait_for(lambda before=before: measured(run) > before)
                time.sleep(chance.uniform(0.0, 0.8))
            assert driver.process.poll() is None, "the sweep ended before its driver could be killed"
    with Driver(tmp_path, text(True)) as driver:
        driver.finish()
    assert ended_at(run) == ended_at(undisturbed[0])
    assert numbers(run) == numbers(undisturbed[0])
    for item in load_runs(run.path):
        steps = [line.split('"step": ')[1].split(",")[0] for line in (item.folder / "metrics.jsonl").open()]
        assert len(set(steps)) == len(steps)  # none was measured twice
