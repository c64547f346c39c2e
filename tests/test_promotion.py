"""Rungs that promote: against a plain loop of synchronous halving, in many orders of arrival."""

import math
import random

import pytest

from orchestrator.promotion import (
    Contest,
    Settings,
    audited,
    expected_steps,
    ladder,
    rungs_of,
    settings_of,
)

BASE = {"train": {"steps": 100}, "evaluate": {"every": 7, "at": None}}


def halving(curves, rungs, factor):
    """The trials that are chosen at each rung, all trained in step: {number: {step: cost}}, a loop for the test."""
    return halved(curves, rungs, factor)[0]


def halved(curves, rungs, factor, free=(), lost=()):
    """The same, and all that were ever chosen: where those chosen have died to the last, as many more are."""
    on = [set() for _ in rungs]

    def died(number):
        passed = len(rungs) if number in free else next((i for i, s in enumerate(on) if number not in s), len(rungs))
        known = len(curves[number])
        return known <= passed and (known < len(rungs) or number in lost)

    while True:
        alive, found, before = sorted(curves), [], sum(map(len, on))
        for index, rung in enumerate(rungs):
            order = [n for _, n in sorted((curves[n].get(rung, math.inf), n) for n in alive)]
            order = [n for n in order if curves[n].get(rung, math.inf) < math.inf]
            count = take = max(1, len(alive) // factor)
            while take < len(order) and all(map(died, order[:take])):
                take += count
            found.append(sorted(order[:take]))
            on[index] |= set(order[:take])
            alive = sorted(on[index])
        if sum(map(len, on)) == before:
            return found, on


def curves_of(draw, trials, rungs):
    """Random curves with ties; some trials diverge before a rung, some measure nothing finite there."""
    found = {}
    for number in range(trials):
        last = draw.choice([len(rungs)] * 5 + list(range(len(rungs))))
        values = [draw.choice([draw.randrange(5), draw.random() * 5]) for _ in rungs[:last]]
        found[number] = dict(zip(rungs, values, strict=False))
        if values and draw.random() < 0.1:
            found[number][rungs[0]] = math.inf
    return found


def simulated(contest, curves, free, workers, draw, lost=()):
    """Train the curves under a contest: any worker comes next. The trials that trained on from each rung.

    Those `lost` come to all their rungs and diverge before the end.
    """
    waiting, running, on = sorted(curves), {}, [set() for _ in contest.rungs]

    def hand_out():
        for number, passed in contest.claims():
            contest.promote(number, passed)
        due = contest.due()
        if due:
            number, passed = due[0]
            contest.promote(number, passed)
            on[passed - 1].add(number)
            running[number] = passed
        elif waiting:
            number = waiting.pop(0)
            contest.enter(number, number in free)
            running[number] = 0

    while True:
        while len(running) < workers and (contest.due() or waiting):
            hand_out()
        if not running:
            return on
        number = draw.choice(sorted(running))
        index = running[number]
        if index == len(contest.rungs) or contest.rungs[index] not in curves[number]:
            contest.end(number, index == len(contest.rungs) and number not in lost)
            del running[number]
            continue
        step = contest.rungs[index]
        contest.reached(number, step, curves[number][step])
        running[number] += 1
        if contest.parks(number, step):
            contest.park(number, step)
            del running[number]


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_arrival_promotes_what_a_loop_of_halving_does(seed):
    draw = random.Random(seed)
    trials, factor, rungs = draw.choice([1, 5, 11, 29]), draw.choice([2, 3, 4]), (7, 21, 63)[: draw.choice([1, 2, 3])]
    curves = curves_of(draw, trials, rungs)
    free = {n for n in curves if draw.random() < 0.15}
    contest = Contest(rungs, factor, trials)
    on = simulated(contest, curves, free, draw.choice([1, 2, 7, trials]), draw)
    wanted, ever = halved(curves, rungs, factor, free)
    assert [sorted(rung.chosen) for rung in contest.judged()] == wanted
    assert all(rung.full for rung in contest.judged())
    for passed, chosen in zip(on, ever, strict=True):
        assert passed == chosen - free
    assert contest.due() == []


def test_the_audit_takes_nobodys_place():
    draw = random.Random(3)
    rungs = (5, 15)
    curves = {number: {step: draw.random() for step in rungs} for number in range(23)}
    chosen = []
    for free in (set(), {2, 3, 11, 19}):
        contest = Contest(rungs, 3, 23)
        simulated(contest, curves, free, 4, random.Random(1))
        chosen.append([rung.chosen for rung in contest.judged()])
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("workers", [1, 5, 28])
def test_where_all_that_were_promoted_diverge_the_next_best_take_their_places(seed, workers):
    """Of two rungs of 28 trials, 9 and 3 go on; the best of all are lost after the last rung, or before it."""
    draw = random.Random(seed)
    rungs, costs = (5, 15), {n: random.Random(f"{seed}/{n}").random() for n in range(28)}
    order = sorted(costs, key=costs.__getitem__)
    for count, late in ((3, True), (9, False), (10, True), (19, False), (28, False)):
        lost = set(order[:count])
        curves = {n: {5: cost} | ({} if n in lost and not late else {15: cost}) for n, cost in costs.items()}
        contest = Contest(rungs, 3, 28)
        simulated(contest, curves, {order[1], order[20]}, workers, draw, lost)
        completed = [one.number for one in contest.contestants.values() if one.ended and not one.lost]
        found = sorted(set(completed) - {order[1], order[20]})
        # Late: in threes until one of three is good, at most nine; then nine more come to the last rung, where six of
        # 18 places are theirs. Early: in nines until one of nine is good, and of those that come to the last rung the
        # best, three for each nine of its contenders.
        if (count, late) == (3, True):
            wanted = order[3:6]
        elif (count, late) == (10, True):
            wanted = order[10:12]
        elif (count, late) == (9, False):
            wanted = order[9:15]
        elif (count, late) == (19, False):
            wanted = order[19:27]
        else:
            wanted = []
        assert found == sorted(set(wanted) - {order[1], order[20]})
        assert contest.due() == []


@pytest.mark.parametrize("seed", range(10))
def test_without_waiting_each_that_goes_on_was_in_the_best_part_of_those_seen(seed):
    draw = random.Random(seed)
    rungs, factor = (5, 15, 45), 3
    curves = {number: {step: draw.random() for step in rungs} for number in range(31)}
    contest = Contest(rungs, factor, 31, asynchronous=True)
    seen = []
    promote = contest.promote

    def noted(number, passed):
        rung = rungs[passed - 1]
        here = sorted((one.costs[rung], one.number) for one in contest.contestants.values() if rung in one.costs)
        seen.append(passed)
        full = contest.judged()[passed - 1].full
        count = max(1, len(here) // factor) if full else len(here) // factor
        assert number in [n for _, n in here[:count]]
        promote(number, passed)

    contest.promote = noted
    on = simulated(contest, curves, set(), 5, draw)
    assert len(seen) == sum(map(len, on))
    best = halving(curves, rungs, factor)[0]
    assert set(best) <= on[0]  # once all have come, the best third of all has gone on as well
    assert len(on[2]) >= 1


def test_a_search_that_grows_takes_nobody_back_and_judges_anew():
    rungs = (5,)
    costs = {0: 3.0, 1: 1.0, 2: 2.0, 3: 0.5, 4: 9.0, 5: 0.2, 6: 0.3}
    contest = Contest(rungs, 3, 3)
    for number in range(3):
        contest.enter(number)
        contest.reached(number, 5, costs[number])
        contest.park(number, 5)
    assert [due.number for due in contest.due()] == [1]
    contest.promote(1, 1)
    contest.end(1, completed=True)
    contest.trials = 7
    contest._judged = None
    assert contest.due() == []  # four have not come
    for number in range(3, 7):
        contest.enter(number)
        contest.reached(number, 5, costs[number])
        contest.park(number, 5)
    assert [due.number for due in contest.due()] == [5, 6]  # a third of seven; trial 1 has gone on before
    assert contest.contestants[1].passed == 1


@pytest.mark.parametrize(
    ("first", "factor", "every", "at", "expected"),
    [
        (0.1, 3, 5, None, (10, 30, 90)),
        (0.1, 3, 7, None, (14, 42)),
        (0.07, 2, 7, None, (7, 14, 28, 56)),
        (0.1, 3, 7, (11, 33), (11, 33)),
        (0.1, 4, 40, None, (40,)),
        (0.5, 2, 100, None, ()),
    ],
)
def test_rungs_lie_at_evaluations(first, factor, every, at, expected):
    base = {"train": {"steps": 100}, "evaluate": {"every": every, "at": at}}
    assert rungs_of(base, Settings(factor, first)) == expected
    assert rungs_of(base, None) == ()


@pytest.mark.parametrize(
    ("share", "trials", "least", "most"), [(0.04, 10, 1, 1), (0.04, 250, 10, 10), (0.3, 37, 11, 12)]
)
def test_a_share_of_the_trials_is_audited_and_stays_so_however_many_there_are(share, trials, least, most):
    settings = Settings(audit=share)
    found = {seed: [n for n in range(trials) if audited(settings, seed, "cnn", n)] for seed in range(30)}
    assert all(least <= len(numbers) <= most for numbers in found.values())
    assert len({tuple(numbers) for numbers in found.values()}) > 5  # by the seed
    assert any(audited(settings, 1, "cnn", n) != audited(settings, 1, "iqn", n) for n in range(trials))


def test_no_audit_and_all_audited():
    assert not any(audited(Settings(audit=0.0), 1, "cnn", n) for n in range(50))
    assert all(audited(Settings(audit=1.0), 1, "cnn", n) for n in range(50))


def test_the_ladder_and_its_price():
    assert ladder(500, 3, 3) == [500, 166, 55, 18]
    assert ladder(2, 2, 3) == [2, 1, 1]
    settings = Settings(audit=0.0)
    assert expected_steps(500, (10, 30, 90), 100, settings) == 500 * 10 + 166 * 20 + 55 * 60 + 18 * 10
    # All are audited: each trains to its end.
    assert expected_steps(11, (10, 30, 90), 100, Settings(audit=1.0)) == pytest.approx(1100)


@pytest.mark.parametrize("wrong", [{"reduction_factor": 1}, {"first": 0.0}, {"first": 1.0}, {"audit": 1.5}])
def test_settings_that_make_no_rungs(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
    assert settings_of({"name": "asha"}) is None
    assert settings_of({"name": "promote", "first": 0.2}) == Settings(first=0.2)
