"""Training steps of the small models: this checkout against another, in pairs that alternate in one run.

git worktree add /tmp/before COMMIT
OMP_NUM_THREADS=1 python benchmarks/steps.py --against /tmp/before [--rounds 40] [--json FILE]     about two minutes

Each checkout has a process of its own, and the two take turns of some tens of milliseconds, so that whatever else runs
on the machine meets both alike. Compared is the time that a process computes, not the time that it waits for a core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMOKE = {"data": "digits", "train": {"batch_size": 8, "ema_decay": 0.9}}
QUICK = {"data": "digits", "train": {"batch_size": 32, "ema_decay": 0.99}}
TOY = {"data": "banana2d", "train": {"batch_size": 128, "ema_decay": 0.99}}
MODELS: dict[str, dict[str, Any]] = {
    "smoke pixelcnn": {**SMOKE, "model": {"name": "pixelcnn", "layers": 1, "planes": 6, "skip_planes": 8}},
    "smoke pixeliqn": {**SMOKE, "model": {"name": "pixeliqn", "layers": 2, "planes": 8, "skip_planes": 8}},
    "quickstart pixelcnn": {
        **QUICK,
        "model": {"name": "pixelcnn", "layers": 4, "planes": 32, "kernel": 3, "skip_planes": 64},
    },
    "quickstart pixeliqn": {
        **QUICK,
        "model": {"name": "pixeliqn", "layers": 4, "planes": 32, "kernel": 3, "skip_planes": 64},
    },
    "toy made": {**TOY, "model": "made"},
    "toy aiqn": {**TOY, "model": "aiqn"},
}
TURN_SECONDS = 0.05  # about how long a turn computes


def work() -> None:
    """A checkout's process: reads lines of a model's name and a number of steps, answers with the seconds they took."""
    import torch

    from aiqn_core.config import TrainConfig
    from aiqn_core.data import load_data
    from aiqn_core.training import new_state, steps_of

    made: dict[str, tuple[Any, int]] = {}
    for line in sys.stdin:
        name, count = json.loads(line)
        if name not in made:
            config = TrainConfig.from_dict(MODELS[name])
            data = load_data(config.data)
            state = new_state(config, data, torch.device("cpu"))
            made[name] = steps_of(state, config, data.train, None), 0
        steps, done = made[name]
        begin = time.process_time()
        for step in range(done, done + count):
            steps(step)
        taken = time.process_time() - begin
        made[name] = steps, done + count
        print(json.dumps(taken), flush=True)


class Side:
    """The process of one checkout."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--work"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, name: str, count: int) -> float:
        """The time that so many steps of a model take."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, count]) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def end(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compared(ours: Side, other: Side, name: str, rounds: int) -> dict[str, float]:
    """Median seconds of a step on both sides, and the median of the other's over ours: above 1, ours is faster."""
    for side in (ours, other):
        side.seconds(name, 3)  # what is only done once
    count = max(1, round(TURN_SECONDS / (ours.seconds(name, 5) / 5)))
    pairs = []
    for i in range(rounds):
        first, second = (ours, other) if i % 2 else (other, ours)
        taken = {side: side.seconds(name, count) / count for side in (first, second)}
        pairs.append((taken[ours], taken[other]))
    middle = statistics.median
    return {
        "ours": middle(a for a, _ in pairs),
        "against": middle(b for _, b in pairs),
        "ratio": middle(b / a for a, b in pairs),
    }


def main() -> None:
    """Print a line for each model, and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return
    if options.against is None or not (options.against / "aiqn_core").is_dir():
        parser.error(f"--against: saw {options.against}, expected the folder of another checkout")
    ours, other = Side(ROOT), Side(options.against.resolve())
    found = {}
    for name in MODELS:
        found[name] = compared(ours, other, name, options.rounds)
        shown = f"{1e3 * found[name]['ours']:8.3f} ms a step, against {1e3 * found[name]['against']:8.3f} ms"
        print(f"{name:<20} {shown}   speed {found[name]['ratio']:.3f}", flush=True)
    ours.end()
    other.end()
    middle = statistics.median(one["ratio"] for one in found.values())
    print(f"{'median':<20} speed {middle:.3f} (goal >= 0.97)")
    if options.json is not None:
        options.json.write_text(json.dumps({"name": "steps", "models": found, "median": middle}, indent=2))


if __name__ == "__main__":
    main()
