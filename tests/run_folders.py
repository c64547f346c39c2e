"""Run folders as finished sweeps leave them, for the tests of reports, and how to read a page back."""

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aiqn_core.config import MODELS, TrainConfig
from orchestrator.runs import RunFolder, trial_id, write_json
from reports.results import Results, read_results

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


def facts(arm: str) -> dict[str, Any]:
    """What a sweep records of the metrics of an arm that is named as its model; of any other, those of PixelCNN."""
    model = arm if arm in MODELS else "pixelcnn"
    data = "banana2d" if MODELS[model].data == "vectors" else "digits"
    return {metric.name: metric.facts() for metric in TrainConfig.from_dict({"model": model, "data": data}).metrics}


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
    content["metrics"] = {arm: facts(arm) for arm in arms}
    write_json(
        folder.sweep_json, {**content, "created": 1763958000.0, "finished": finished, "sweep": {**sweep, **changes}}
    )


def results_with(
    path: Path, finals: dict[str, list[float]], objective: str = "fd_lite0", direction: str = "minimize", **others: Any
) -> Results:
    """Results whose arms have these finals, one for each seed; `others` are values of other metrics, by arm too."""
    folder = RunFolder(path)
    search = {"trials": 6, "objective": {"metric": objective, "direction": direction}}
    write_sweep(folder, arms=tuple(finals), search=search)
    for arm, values in finals.items():
        for seed, value in enumerate(values):
            scores = {name: by_arm[arm][seed] for name, by_arm in others.items()}
            history = [{"step": 1500, "samples": 1000, "seconds": 9.0, objective: value, **scores}]
            write_trial(folder, arm, "final", seed, history, params={}, seed=seed, source=4)
    return read_results(folder.path)


TRIVIAL: dict[str, dict[str, float]] = {
    "real": {"fd_lite0": 20.25, "fd_lite0_low": 19.5, "fd_lite0_high": 21.0, "is_lite0_mean": 3.386, "samples": 797},
    "gaussian": {"fd_lite0": 70.5, "is_lite0_mean": 3.031, "samples": 1000},
    "repeated": {"fd_lite0": 208.0, "is_lite0_mean": 2.7, "samples": 1000},
    "left": {"bits_per_dim": 2.7554},
}


def write_baselines(folder: RunFolder, samples: int = 1000, **real: float) -> None:
    """What trivial generators score under the protocol of trials with so many samples; `real` changes real images."""
    scores = {**TRIVIAL, "real": {**TRIVIAL["real"], **real}}
    folder.add_baselines({**PROTOCOL, "samples": samples}, scores)


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
    write_baselines(folder)
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


def finals_by_hand(folder: RunFolder, arm: str, metric: str) -> list[float]:
    """Last values of an arm's finals, read from the files without our readers."""
    paths = sorted(folder.trials.glob(f"{arm}-final-*/metrics.jsonl"))
    return [json.loads(path.read_text().splitlines()[-1])[metric] for path in paths]
