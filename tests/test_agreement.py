"""The headline, the table of pairs, what is bold and answer.md say one thing, whatever the finals are."""

import math
import re
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import results_with

from orchestrator.runs import Run
from reports.answer import answer
from reports.comparison import comparison
from reports.html import answer_text
from reports.results import Results
from reports.search_tables import verdict_table

ARMS = ("ant", "bee", "cow", "dog", "elk", "fox")
# Few levels give ties and seeds that do not vary; small and large spreads give pairs that differ and pairs that do not.
VALUES = st.builds(
    lambda level, noise: level + noise, st.sampled_from([0.5, 3.0, 3.0, 20.0]), st.sampled_from([0, 0.1, 0.25, 2.0])
)
FINALS = st.integers(2, 6).flatmap(
    lambda count: st.fixed_dictionaries({arm: st.lists(VALUES, max_size=6) for arm in ARMS[:count]})
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_with(tmp_path_factory.mktemp("one"), {"ant": [1.0]})


@settings(max_examples=80, deadline=None)
@given(finals=FINALS, lower=st.booleans())
def test_no_two_places_contradict_each_other(one: Results, finals: dict[str, list[float]], lower: bool) -> None:
    (run,) = one.runs
    runs = [
        Run(
            **{
                **vars(run),
                "arm": arm,
                "seed": seed,
                "number": seed,
                "history": [{**run.history[0], "fd_lite0": value}],
            }
        )
        for arm, values in finals.items()
        for seed, value in enumerate(values)
    ]
    metric = one.objective._replace(lower_is_better=lower)
    results = replace(one, arms=list(finals), runs=runs, metrics=[metric])
    check(results, {arm: values for arm, values in finals.items() if values})


def check(results: Results, finals: dict[str, list[float]]) -> None:
    sentence = answer(results).sentence
    table, main = verdict_table(results), comparison(results)
    assert sentence in (text := answer_text(results, [main, table]))
    if len(finals) < 2:
        assert table.shown.empty
        assert not main.strong
        return
    rows = {tuple(row["Pair"].split(" against ")): row for row in table.shown.to_dict(orient="records")}
    assert {frozenset(pair) for pair in rows} == {frozenset(pair) for pair in combinations(finals, 2)}
    better = {pair for pair, row in rows.items() if row["Verdict"] == "better"}
    untested = {pair for pair, row in rows.items() if row["Verdict"] == "not tested"}
    for (first, second), row in rows.items():
        assert f"| {first} against {second} | {row['Verdict']} |" in text
        few = min(len(finals[first]), len(finals[second])) < 2
        constant = all(max(finals[arm]) - min(finals[arm]) < 1e-9 for arm in (first, second))
        assert (row["Verdict"] == "not tested") == (few or constant)
        if row["Verdict"] != "not tested":
            low, high = (float(end.replace(",", "")) for end in row["95 % interval"].split(" to "))
            assert (low > 0) == (float(row["p"]) < 0.05) == (row["Verdict"] == "better")
            assert low <= float(row[next(key for key in row if key.startswith("Ahead"))].replace(",", "")) <= high
    check_headline(sentence, set(finals), better, untested, set(rows) - better - untested)
    bold = {main.shown["Arm"][index] for index, _ in main.strong}
    leaders = {arm for arm in finals if all((arm, other) in better for other in set(finals) - {arm})}
    assert bold == leaders
    assert sentence.split()[0] in leaders if leaders else " reaches the " not in sentence
    for interval in main.shown["95 % interval"]:
        assert interval == "—" or float(interval.split(" to ")[0].replace(",", "")) >= 0


def check_headline(sentence: str, arms: set[str], better: set, untested: set, alike: set) -> None:
    named = set(re.findall(r"(\w+) is better than (\w+)", sentence))
    if leading := re.match(r"(\w+) reaches the (?:lower|higher) ", sentence):
        named |= {(leading[1], other) for other in arms - {leading[1]}}
    assert named == better
    if told := re.match(r"No clear lead: (\w+) cannot be told apart from ([\w, ]+);", sentence):
        assert {(told[1], other) for other in re.split(", | or ", told[2])} == {p for p in alike if p[0] == told[1]}
    if sentence.startswith("No clear difference"):
        assert not better
        assert alike
    if sentence.startswith("Not tested: fd_lite0"):
        assert not better | alike
    elif listed := re.search(r"Not tested: (.+)\.$", sentence):
        assert {tuple(pair.split(" against ")) for pair in listed[1].split(", ")} == untested
    for p in re.findall(r"p = ([\d.e-]+?)[).]", sentence.replace("all p", "")):
        assert math.isfinite(float(p))
