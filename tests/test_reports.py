import csv
import io
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.runs import RunFolder, RunFolderError, trial_id, write_json
from reports import curves, tables
from reports.html import write_report

QUESTION = "Does the quantile loss beat the likelihood on 8x8 digits when both are tuned with the same budget?"
PROTOCOL = {"extractor": "lite0", "weights": "a1b2c3", "resize": "bicubic", "size": 128, "reference": 1437}
SEARCH_STATES = {
    "pixelcnn": ["completed", "completed", "pruned", "failed", "completed", "completed"],
    "pixeliqn": ["completed", "diverged", "completed", "pruned", "completed", "completed"],
}
FLOOR = {"pixelcnn": 66.0, "pixeliqn": 49.0}
SEEDS = [0, 1]


def distance(arm: str, number: int, step: int, samples: int) -> float:
    """A falling curve; trial 4 of each arm is the best, and few samples make it larger."""
    return FLOOR[arm] + 3.7 * abs(number - 4) + 250.0 / (1 + step / 60) + 2000.0 / samples


def record(arm: str, number: int, step: int, samples: int, shift: float = 0.0) -> dict[str, Any]:
    value = distance(arm, number, step, samples) + shift
    rate = 0.05 if arm == "pixelcnn" else 0.06
    scores = {"fd_lite0": value, "is_lite0_mean": 1 + 90 / value, "is_lite0_std": 0.05, "kd_lite0": value / 1000}
    times = {"seconds": rate * step + 2.0 * (1 + step // 200), "evaluate_seconds": 2.0 * (1 + step // 200)}
    return {"step": step, "time": 1.7e9 + step, "loss": 2.0 / (1 + step), "samples": samples, **scores, **times}


def params_of(arm: str, number: int) -> dict[str, Any]:
    params: dict[str, Any] = {
        "optimizer.name": ["adam", "rmsprop"][number % 2],
        "optimizer.lr": 1.2345e-3 * (number + 1),
    }
    return params | ({"loss.kappa": 0.002} if arm == "pixeliqn" else {"schedule": "decay"})


def write_grid(path: Path, seed: int, side: int = 8, rows: int = 5, columns: int = 7) -> None:
    """A grid of blobs that look a little like digits."""
    random = np.random.default_rng(seed)
    tiles = np.zeros((rows, columns, side, side))
    for row in range(rows):
        for column in range(columns):
            walk = np.cumsum(random.integers(-1, 2, size=(22, 2)), axis=0) % side
            tiles[row, column, walk[:, 0], walk[:, 1]] = random.uniform(0.5, 1, size=22)
    image = tiles.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * image).astype(np.uint8)).save(path)


def write_trial(
    folder: RunFolder,
    arm: str,
    stage: str,
    number: int,
    history: list[dict[str, Any]],
    *,
    state: str = "completed",
    params: dict[str, Any] | None = None,
    seed: int = 0,
    source: int | None = None,
    **status: Any,
) -> None:
    """One trial, as the training process and the driver would leave it."""
    trial = folder.trial(trial_id(arm, stage, number))
    provenance = {
        "config_hash": f"{arm}{number}",
        "git": {"commit": "0123abc", "dirty": False},
        "versions": {"torch": "2.13.0", "python": "3.11.9"},
        "device": "cpu",
        "protocol": {**PROTOCOL, "samples": history[-1].get("samples", 512) if history else 512},
    }
    content = {"format": 1, "config": {"model": {"name": arm}}, "params": params or params_of(arm, number)}
    write_json(trial.config, {**content, "seed": seed, "source": source, "provenance": provenance})
    if history:
        trial.append_metrics([*history])
    trial.log.write_text("started\n")
    trial.update_status(**{"state": state, "attempts": 1, "log": str(trial.log), "host": "node-a", **status})


def write_sweep(
    folder: RunFolder, *, finished: bool = True, arms: tuple[str, ...] = ("pixelcnn", "pixeliqn"), **changes: Any
) -> None:
    sweep = {
        "name": "quickstart",
        "search": {"trials": 6, "sampler": "tpe", "pruner": "none", "seed": 0}
        | {"objective": {"metric": "fd_lite0", "direction": "minimize"}},
        "arms": {arm: {"model": {"name": arm}} for arm in arms},
        "final": {"top": 1, "seeds": SEEDS, "steps": 1500},
    }
    content = {"format": 1, "name": "quickstart", "question": QUESTION, "command": "aiqn sweep sweeps/quickstart.yaml"}
    write_json(
        folder.sweep_json, {**content, "created": 1763958000.0, "finished": finished, "sweep": {**sweep, **changes}}
    )


TROUBLE: dict[str, dict[str, Any]] = {
    "pruned": {"cause": "pruner"},
    "failed": {"cause": "infrastructure", "attempts": 3, "message": "node-b was lost\nTraceback follows"},
    "diverged": {"cause": "nan", "message": "loss is NaN at step 212"},
}


def build_run_folder(path: Path) -> RunFolder:
    """Two arms of six search trials and two finals each, one trial of each way to end."""
    folder = RunFolder(path)
    write_sweep(folder)
    write_grid(folder.real, seed=99)
    for arm, states in SEARCH_STATES.items():
        for number, state in enumerate(states):
            steps = {"completed": (0, 200, 400, 600), "pruned": (0, 200), "failed": (0,), "diverged": (0, 200)}[state]
            history = [record(arm, number, step, 512) for step in steps]
            write_trial(folder, arm, "search", number, history, state=state, **TROUBLE.get(state, {}))
        for seed in SEEDS:
            history = [record(arm, 4, step, 1000, shift=0.8 * seed) for step in range(0, 1501, 250)]
            write_trial(folder, arm, "final", seed, history, params=params_of(arm, 4), seed=seed, source=4)
            for step in range(0, 1501, 250):
                write_grid(folder.trial(trial_id(arm, "final", seed)).samples(step), seed=1000 * seed + step)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = build_run_folder(tmp_path_factory.mktemp("runs") / "quickstart")
    write_report(folder.path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder of its own for tests that change it."""
    return build_run_folder(tmp_path / "quickstart")


class PageReader(HTMLParser):
    """Every address the page names, its visible text, and tables as lists of rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        self.addresses += [
            value or "" for key, value in attrs if key in ("href", "src", "srcset", "action", "xlink:href")
        ]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: RunFolder) -> str:
    return (folder.report / "index.html").read_text(encoding="utf-8")


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


# The numbers


def finals_by_hand(folder: RunFolder, arm: str, metric: str) -> list[float]:
    """Last values of an arm's finals, read from the files without our readers."""
    paths = sorted(folder.trials.glob(f"{arm}-final-*/metrics.jsonl"))
    return [json.loads(path.read_text().splitlines()[-1])[metric] for path in paths]


@pytest.mark.parametrize("metric", ["fd_lite0", "is_lite0_mean"])
@pytest.mark.parametrize("arm", ["pixelcnn", "pixeliqn"])
def test_comparison_is_mean_and_deviation_over_seeds(finished: RunFolder, arm: str, metric: str) -> None:
    row = next(row for row in csv_rows(finished.report / "comparison.csv") if row["arm"] == arm)
    values = np.array(finals_by_hand(finished, arm, metric))
    assert len(values) == len(SEEDS)
    assert float(row[f"final_{metric}_mean"]) == pytest.approx(values.mean(), rel=1e-12)
    assert float(row[f"final_{metric}_deviation"]) == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert (row["final_step"], row["final_samples"], row["search_samples"]) == ("1500", "1000", "512")


def test_comparison_takes_the_best_completed_search_trial_at_its_last_step(finished: RunFolder) -> None:
    rows = {row["arm"]: row for row in csv_rows(finished.report / "comparison.csv")}
    for arm in FLOOR:
        assert rows[arm]["search_trial"] == f"{arm}-search-4"
        assert float(rows[arm]["search_value"]) == pytest.approx(distance(arm, 4, 600, 512))
        assert float(rows[arm]["untrained_mean"]) == pytest.approx(distance(arm, 4, 0, 1000) + 0.4)


def test_a_pruned_trial_is_never_the_best_however_good_its_last_value(folder: RunFolder) -> None:
    write_trial(folder, "pixeliqn", "search", 9, [record("pixeliqn", 4, 200, 512, shift=-200.0)], state="pruned")
    assert "pixeliqn-search-9" not in [run.id for run in tables.ranked(tables.read_results(folder.path), "pixeliqn")]


def test_answer_names_the_better_arm_with_both_numbers_and_the_caveat(finished: RunFolder) -> None:
    answer = tables.answer(tables.read_results(finished.path))
    shown = {arm: f"{statistics.mean(finals_by_hand(finished, arm, 'fd_lite0')):.2f}" for arm in FLOOR}
    assert answer.sentence.startswith(f"pixeliqn reaches the lower fd_lite0: {shown['pixeliqn']} ± 0.57")
    assert f"{shown['pixelcnn']} ± 0.57 for pixelcnn" in answer.sentence
    assert "2 seeds" in answer.qualifier
    assert "not a significance test" in answer.qualifier
    assert "is_lite0_mean ranks them the same way" in answer.qualifier
    assert answer.leader == "pixeliqn"


def test_answer_follows_the_direction_of_the_objective(folder: RunFolder) -> None:
    search = {"trials": 6, "objective": {"metric": "is_lite0_mean", "direction": "maximize"}}
    write_sweep(folder, search=search)
    sentence = tables.answer(tables.read_results(folder.path)).sentence
    assert sentence.startswith("pixeliqn reaches the higher is_lite0_mean")


def test_seeds_that_overlap_give_no_winner(folder: RunFolder) -> None:
    shift = distance("pixelcnn", 4, 1500, 1000) - distance("pixeliqn", 4, 1500, 1000)
    for seed, offset in zip(SEEDS, (0.3, -0.9), strict=True):
        shutil.rmtree(folder.trial(f"pixeliqn-final-{seed}").path)
        history = [record("pixeliqn", 4, 1500, 1000, shift=shift + offset)]
        write_trial(folder, "pixeliqn", "final", seed, history, seed=seed, source=4)
    answer = tables.answer(tables.read_results(folder.path))
    assert answer.sentence.startswith("No clear difference")
    assert answer.leader is None


def test_finals_of_different_protocols_are_not_compared(folder: RunFolder) -> None:
    for seed in SEEDS:
        shutil.rmtree(folder.trial(f"pixeliqn-final-{seed}").path)
        write_trial(folder, "pixeliqn", "final", seed, [record("pixeliqn", 4, 1500, 777)], seed=seed, source=4)
    results = tables.read_results(folder.path)
    assert tables.answer(results).sentence.startswith("Not comparable: the finals were measured with different samples")
    assert any("samples is not the same in all final trials (1000, 777)" in n for n in tables.comparison(results).notes)


def test_one_lucky_seed_does_not_beat_a_configuration_with_all_seeds(folder: RunFolder) -> None:
    lucky = [record("pixelcnn", 4, 1500, 1000, shift=-30.0)]
    write_trial(folder, "pixelcnn", "final", 2, lucky, seed=0, source=1)
    chosen = tables.chosen_finals(tables.read_results(folder.path), "pixelcnn")
    assert [run.source for run in chosen] == [4, 4]


def test_every_trial_is_counted_once_and_every_incident_listed(finished: RunFolder) -> None:
    rows = csv_rows(finished.report / "counts.csv")
    for row in rows:
        states = SEARCH_STATES[row["arm"]] if row["stage"] == "search" else ["completed"] * len(SEEDS)
        assert {s: int(row[s]) for s in set(states)} == {s: states.count(s) for s in set(states)}
    kinds = ("completed", "pruned", "diverged", "failed", "stopped", "running", "waiting")
    assert sum(int(row[kind]) for row in rows for kind in kinds) == 2 * (6 + 2)
    listed = {row["trial"]: row for row in csv_rows(finished.report / "incidents.csv")}
    troubled = {
        f"{a}-search-{i}": s for a, states in SEARCH_STATES.items() for i, s in enumerate(states) if s != "completed"
    }
    assert {trial: row["state"] for trial, row in listed.items()} == troubled
    assert listed["pixelcnn-search-3"]["attempts"] == "3"
    assert listed["pixelcnn-search-3"]["log"] == "trials/pixelcnn-search-3/log.txt"
    assert listed["pixelcnn-search-3"]["message"] == "node-b was lost\nTraceback follows"


def test_cost_adds_up(finished: RunFolder) -> None:
    *parts, total = csv_rows(finished.report / "cost.csv")
    by_hand = sum(
        json.loads(path.read_text().splitlines()[-1])["seconds"] for path in finished.trials.glob("*/metrics.jsonl")
    )
    assert float(total["total_seconds"]) == pytest.approx(by_hand)
    assert sum(float(row["training_seconds"]) + float(row["evaluation_seconds"]) for row in parts) == pytest.approx(
        by_hand
    )


# Rounding


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [
        (49.4567, 0.4301, "49.46 ± 0.44"),  # 0.43 would flatter
        (49.4567, 12.01, "49 ± 13"),
        (1234.5, 0.0999, "1,234.500 ± 0.100"),
        (2.5, 0.0, "2.500 ± 0"),
        (65.93, None, "65.93"),
        (5123.4, 234.5, "5,123 ± 235"),
    ],
)
def test_the_deviation_is_never_rounded_down(mean: float, deviation: float | None, expected: str) -> None:
    assert tables.plus_minus(tables.Summary(mean, deviation, mean, mean, 2)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(49.4567, "49.46"), (12345.6, "12,346"), (0.0, "0"), (0.00001234, "1.234e-05"), (None, "—"), (float("nan"), "—")],
)
def test_numbers_keep_four_significant_digits(value: float | None, expected: str) -> None:
    assert tables.rounded(value) == expected


# Files


def test_markdown_and_latex_hold_the_same_cells(finished: RunFolder) -> None:
    table = tables.comparison(tables.read_results(finished.path))
    lines = (finished.report / "comparison.md").read_text().splitlines()
    pipes = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    source = (finished.report / "comparison.tex").read_text()
    body = re.search(r"\\toprule\n(.*)\\bottomrule", source, re.DOTALL)
    alignment = re.search(r"\\begin\{tabular\}\{([lr]+)\}", source)
    assert body
    assert alignment
    plain = body[1].replace(r"\midrule" + "\n", "").replace(r"\_", "_").replace(r"$\pm$", "±")
    plain = re.sub(r"\\textbf\{([^}]*)\}", r"**\1**", plain).replace(r"$\downarrow$", "↓").replace(r"$\uparrow$", "↑")
    cells = [line.removesuffix(r" \\").split(" & ") for line in plain.strip().splitlines()]
    assert cells == [pipes[0], *pipes[2:]]
    assert len(alignment[1]) == len(cells[0]) == len(table.shown.columns)
    assert "**61.02 ± 0.57**" in cells[2]


def test_latex_escapes_every_special_character() -> None:
    assert tables.latex(r"a_b%c&d#e$f{g}~^\ ±") == (
        r"a\_b\%c\&d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )


def test_the_same_run_folder_gives_the_same_bytes(finished: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "quickstart"
    shutil.copytree(finished.path, copy, ignore=shutil.ignore_patterns("report"))
    for path in copy.glob("trials/*/status.json"):  # logs are recorded with the folder's first path
        path.write_text(path.read_text().replace(str(finished.path), str(copy)))
    write_report(copy)
    written = {path.name: path.read_bytes() for path in finished.report.iterdir()}
    again = {path.name: path.read_bytes() for path in (copy / "report").iterdir()}
    assert sorted(written) == sorted(again)
    assert [name for name in written if written[name] != again[name]] == []


def test_figures_are_written_in_three_formats(finished: RunFolder) -> None:
    for metric in ("fd_lite0", "is_lite0_mean"):
        for axis in ("step", "seconds"):
            stem = finished.report / f"{metric}-by-{axis}"
            assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
            assert "<svg" in stem.with_suffix(".svg").read_text()
            with Image.open(stem.with_suffix(".png")) as image:
                assert len(image.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 50


# Curves


def test_curve_of_the_finals_is_the_mean_with_the_range_of_seeds(finished: RunFolder) -> None:
    results = tables.read_results(finished.path)
    frame = curves.curve_frame(results, results.objective)
    final = frame[(frame["kind"] == "final") & (frame["arm"] == "pixelcnn")]
    assert final["step"].tolist() == list(range(0, 1501, 250))
    for point in final.to_dict(orient="records"):
        low = distance("pixelcnn", 4, point["step"], 1000)
        assert [point[key] for key in ("low", "value", "high")] == pytest.approx([low, low + 0.4, low + 0.8])
    ends = frame[(frame["kind"] == "search") & frame["point"].astype(bool)]
    assert len(ends) == 12
    assert dict(zip(ends["line"], ends["step"], strict=True))["pixelcnn-search-2"] == 200


def test_a_mean_uses_only_steps_that_all_seeds_have(folder: RunFolder) -> None:
    for seed, last in zip(SEEDS, (750, 250), strict=True):
        shutil.rmtree(folder.trial(f"pixelcnn-final-{seed}").path)
        history = [record("pixelcnn", 4, step, 1000) for step in range(0, last + 1, 250)]
        write_trial(folder, "pixelcnn", "final", seed, history, state="running", seed=seed, source=4)
    results = tables.read_results(folder.path)
    frame = curves.curve_frame(results, results.objective)
    assert frame[(frame["kind"] == "final") & (frame["arm"] == "pixelcnn")]["step"].tolist() == [0, 250]


def test_thinning_keeps_the_best_the_worst_and_even_ranks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "many")
    write_sweep(folder)
    order = np.random.default_rng(7).permutation(101)
    for number, rank in enumerate(order):
        history = [{"step": 200, "seconds": 1.0, "samples": 5, "fd_lite0": 10.0 + float(rank)}]
        write_trial(folder, "pixelcnn", "search", number, history)
    results = tables.read_results(folder.path)
    kept = curves.thinned(results.of("pixelcnn", "search"), results.objective, limit=11)
    assert [run.history[0]["fd_lite0"] for run in kept] == [10.0 + 10 * i for i in range(11)]
    assert "11 of 101" in curves.caption(results, results.objective, curves.curve_frame(results, results.objective, 11))


@pytest.mark.parametrize(("last", "kind"), [(50.0, "linear"), (10.0, "log"), (-1.0, "linear")])
def test_y_axis_is_logarithmic_where_the_range_asks_for_it(last: float, kind: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder)
    history = [{"step": s, "seconds": 1.0 + s, "fd_lite0": v} for s, v in ((0, 100.0), (200, last))]
    write_trial(folder, "pixelcnn", "search", 0, [{"samples": 5, **record} for record in history])
    results = tables.read_results(folder.path)
    chart = curves.learning_chart(
        curves.curve_frame(results, results.objective), results.objective, "step", results.arms
    )
    scales = {layer["encoding"]["y"].get("scale", {}).get("type") for layer in chart.to_dict()["layer"]}
    assert kind in scales
    assert len(scales - {None}) == 1


# The page


def test_the_page_needs_nothing_else(finished: RunFolder) -> None:
    page = page_of(finished)
    reader = PageReader(page)
    assert reader.open == []
    assert "http:" not in page
    assert "https:" not in page
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert "<script" not in page
    files = [address for address in reader.addresses if not address.startswith("data:image/png;base64,")]
    assert files
    assert [name for name in files if not (finished.report / name).is_file()] == []
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_the_page_tells_the_story_in_order(finished: RunFolder) -> None:
    text = PageReader(page_of(finished)).text
    headings = ["Comparison", "Learning curves", "Samples", "Best configurations", "Every trial accounted for"]
    assert re.findall(r"<h2>(.*)</h2>", page_of(finished)) == [*headings, "Cost", "Provenance", "Reproduce"]
    answer = tables.answer(tables.read_results(finished.path)).sentence
    story = [QUESTION, answer, "Comparison", "Learning curves", "aiqn sweep sweeps/quickstart.yaml"]
    assert [text.index(words) for words in story] == sorted(text.index(words) for words in story)
    assert "finished: 16 trials" in text
    assert "2 trials failed, diverged or stopped" in text
    assert "FID" not in text.partition("Metric names")[0]
    assert "pixelcnn-search-3 (failed)" in text  # hover titles


def test_samples_are_those_of_the_lowest_seed_at_its_largest_step(finished: RunFolder) -> None:
    reader = PageReader(page_of(finished))
    assert reader.images == 1 + 2 * (1 + 6)
    assert "pixeliqn-final-0, seed 0, step 1,500" in reader.text


def test_text_from_the_run_folder_cannot_become_markup(folder: RunFolder) -> None:
    content = json.loads(folder.sweep_json.read_text()) | {"question": "<script>alert(1)</script>?"}
    write_json(folder.sweep_json, content)
    hostile = {"optimizer.name": "<b>\"&'</b>|_$"}
    write_trial(folder, "pixelcnn", "search", 4, [], params=hostile, message="<img src=x>")
    page = write_report(folder.path).read_text()
    assert "<script>" not in page
    assert "<img src=x" not in page
    assert '<b>"' not in page
    assert PageReader(page).open == []


# What is missing


def test_an_unfinished_sweep_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder, finished=False)
    for number in range(3):
        write_trial(folder, "pixelcnn", "search", number, [record("pixelcnn", number, 600, 512)])
    write_trial(folder, "pixeliqn", "search", 0, [record("pixeliqn", 0, 200, 512)], state="running")
    text = PageReader(write_report(folder.path).read_text()).text
    assert "unfinished: 3 of 16 trials done" in text
    assert "No final results yet" in text
    assert "No completed trial for pixeliqn" in text
    assert "pixeliqn: best 0 of 0" in text
    assert "No picture of real data is recorded" in text


@pytest.mark.parametrize(
    "history", [[], [{"step": 0, "time": 1.0}], [{"step": 5, "seconds": 1.0, "fd_lite0": float("nan")}]]
)
def test_trials_without_numbers_are_shown_as_missing(history: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder, final=None)
    for stage in ("search", "final"):
        write_trial(folder, "pixelcnn", stage, 0, history, source=0 if stage == "final" else None)
    folder.real.write_bytes(b"not a PNG")
    text = PageReader(write_report(folder.path).read_text()).text
    assert "No answer yet: no trial has completed." in text
    assert "No evaluation with fd_lite0 is recorded yet." in text
    assert not re.search(r"\b(nan|none|inf)\b", text.lower().replace("none yet", "").replace(": none.", ""))


def test_a_sweep_that_has_not_started_has_a_report(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder, finished=False)
    assert "unfinished: 0 of 16 trials done" in PageReader(write_report(folder.path).read_text()).text


def test_without_finals_the_search_answers_with_its_own_caveat(folder: RunFolder) -> None:
    for path in folder.trials.glob("*-final-*"):
        shutil.rmtree(path)
    answer = tables.answer(tables.read_results(folder.path))
    expected = [tables.rounded(distance(arm, 4, 600, 512)) for arm in ("pixeliqn", "pixelcnn")]
    assert f"{expected[0]} for pixeliqn, {expected[1]} for pixelcnn" in answer.sentence
    assert "optimistic" in answer.qualifier
    assert "512 samples" in answer.qualifier


def test_six_arms_keep_their_colors_apart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    arms = tuple(f"arm{i}" for i in range(6))
    write_sweep(folder, arms=arms, final=None)
    for arm in arms:
        write_trial(folder, arm, "search", 0, [record("pixelcnn", 0, step, 512) for step in (0, 200)])
    page = write_report(folder.path).read_text()
    assert all(f'stroke="{light}"' in page for light, _ in curves.PALETTE)
    assert len({tone for pair in curves.PALETTE for tone in pair}) == 2 * len(arms)


@pytest.mark.parametrize("content", [None, "{", '{"format": 2}', '{"format": 1, "name": "x", "sweep": {}}'])
def test_an_unreadable_run_folder_is_one_plain_error(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "sweep.json").write_text(content)
    with pytest.raises(RunFolderError, match="run"):
        write_report(tmp_path / "run")
