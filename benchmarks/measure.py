"""What every benchmark shares: medians after a warm-up, the machine in words, a table and its JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Row(NamedTuple):
    """One line of a benchmark: ours against something, as a ratio, and the goal that was set."""

    what: str
    ours: float
    against: float
    unit: str
    ratio: float
    goal: str  # for example "<= 2"; empty where none was set


NOT_MEASURED = float("nan")


def not_measured(what: str, unit: str, goal: str = "", against: float = NOT_MEASURED) -> Row:
    """A line whose number this machine cannot give."""
    return Row(what, NOT_MEASURED, against, unit, NOT_MEASURED, goal)


def seconds(action: Callable[[], object], repeats: int = 3, warm_up: int = 1) -> float:
    """The median time of an action in seconds, after some that do not count; waits for the GPU."""
    times = []
    for _ in range(warm_up + repeats):
        synchronize()
        begin = time.perf_counter()
        action()
        synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[warm_up:])


class Pair(NamedTuple):
    """Median seconds of two actions, and the median of their ratios."""

    ours: float
    against: float
    ratio: float


def alternating(ours: Callable[[], object], against: Callable[[], object], repeats: int = 3) -> Pair:
    """Both in turn, after a round that does not count: what else runs on the machine meets both alike."""
    for action in (ours, against):
        action()
    rounds = [(seconds(ours, 1, warm_up=0), seconds(against, 1, warm_up=0)) for _ in range(repeats)]
    middle = statistics.median
    return Pair(middle(a for a, _ in rounds), middle(b for _, b in rounds), middle(a / b for a, b in rounds))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


PRODUCT = 2048  # rows and columns of the matrices whose product is the yardstick of this machine
PRODUCT_OPERATIONS = 2 * PRODUCT**3


def product() -> Callable[[], object]:
    """A large matrix product to be timed."""
    left = torch.randn(PRODUCT, PRODUCT, device=device())
    return lambda: left @ left


def machine() -> dict[str, Any]:
    """Where the numbers were taken."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        # Above the number of cores other work shared them: trust ratios, not seconds.
        "load": round(os.getloadavg()[0], 1),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def met(row: Row) -> str:
    """Whether a ratio reaches its goal."""
    if not row.goal:
        return ""
    if row.ratio != row.ratio:
        return f"not measured (goal {row.goal})"
    sign, bound = row.goal.split()[:2]
    reached = row.ratio <= float(bound) if sign == "<=" else row.ratio >= float(bound)
    return f"{'reached' if reached else 'MISSED'} (goal {row.goal})"


def publish(name: str, rows: list[Row], notes: dict[str, Any] | None = None) -> None:
    """Print the table and, where the command line says `--json FILE`, write the same numbers there."""
    options = argparse.ArgumentParser()
    options.add_argument("--json", type=Path, help="also write the numbers to this file")
    file = options.parse_known_args()[0].json
    about = machine() | (notes or {})
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    width = max(len(row.what) for row in rows)
    for row in rows:
        shown = [f"{value:.4g} {row.unit}" if value == value else "not measured" for value in (row.ours, row.against)]
        ratio = f"{row.ratio:.3g}" if row.ratio == row.ratio else "-"
        print(f"{row.what:<{width}}  {shown[0]:>18}  against {shown[1]:>18}  ratio {ratio:>8}  {met(row)}")
    if file is not None:
        file.write_text(json.dumps({"name": name, "machine": about, "rows": [row._asdict() for row in rows]}, indent=2))
