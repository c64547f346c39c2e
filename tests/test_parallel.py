import itertools
import json
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest
import torch

from aiqn_core import parallel
from aiqn_core.config import TrainConfig
from aiqn_core.parallel import ALONE, WorkerLostError, Workers, joined, open_meeting
from aiqn_core.training import read_checkpoint, train

pytestmark = pytest.mark.slow

# Ends as Ray ends its workers, without the interpreter's own end, in which a few of hundreds have aborted.
FOLLOW = """
import json, os, sys
import torch
from aiqn_core.config import TrainConfig
from aiqn_core.training import follow
torch.set_num_threads(1)
config, port, rank, size = sys.argv[1:]
follow(TrainConfig.from_dict(json.loads(config)), "127.0.0.1", int(port), int(rank), int(size))
os._exit(0)
"""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def minutes_not_hours(monkeypatch):
    """A worker that dies at its start is no leader's business: Ray's driver sees to it. Here nobody would."""
    monkeypatch.setattr(parallel, "PATIENCE", timedelta(minutes=5))


def small(name, **changes):
    mapping = {
        "model": {"name": name, "layers": 2, "planes": 8, "skip_planes": 16, "kernel": 3},
        "optimizer": {"name": "adam", "lr": 0.003},
        "train": {"steps": 11, "batch_size": 7, "log_every": 1},
        "evaluate": {"every": 11, "samples": 13, "splits": 2, "size": 64, "reference": 50, "initial": True},
    }
    for key, value in changes.items():
        mapping[key] = {**mapping.get(key, {}), **value}
    return TrainConfig.from_dict(mapping)


def vectors():
    mapping = {
        "data": "banana2d",
        "model": {"name": "aiqn", "hidden": [5, 7]},
        "optimizer": {"name": "adam", "lr": 0.01},
        "train": {"steps": 11, "batch_size": 13, "log_every": 1},
        "evaluate": {"every": 5, "samples": 27, "reference": 50},
    }
    return TrainConfig.from_dict(mapping)


@contextmanager
def team(config, size):
    """This process as the leader of `size` workers, the others being processes of their own."""
    meeting, text = open_meeting("127.0.0.1"), json.dumps(config.to_dict())
    with ExitStack() as stack:
        processes = []
        for rank in range(1, size):
            command = [sys.executable, "-c", FOLLOW, text, str(meeting.port), str(rank), str(size)]
            processes.append(stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE)))
            stack.callback(processes[-1].kill)
        yield stack.enter_context(joined(meeting, 0, size)), processes


def numbers(progress):
    timed = ("seconds", "evaluate_seconds")
    return progress.step, {key: value for key, value in progress.metrics.items() if key not in timed}


@pytest.mark.parametrize(("count", "size"), [(7, 1), (7, 2), (11, 3), (5, 5)])
def test_shares_cover_all_rows_once_and_differ_by_at_most_one(count, size):
    shares = [range(count)[Workers(rank, size).rows(count)] for rank in range(size)]
    assert list(itertools.chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_is_given_back():
    gradient = torch.nn.Parameter(torch.ones(3))
    gradient.grad = torch.full((3,), 5.0)
    assert ALONE.average(torch.tensor(7.0, requires_grad=True), [gradient], 1.0) == 7
    assert gradient.grad.tolist() == [5, 5, 5]
    assert ALONE.gather(gradient, 3) is gradient
    assert ALONE.share({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("size", "config"),
    [
        (2, small("pixeliqn", train={"clip_norm": 0.01}, loss={"tau_sampling": "stratified"})),
        (3, small("pixelcnn", model={"conditional": True})),
    ],
)
def test_several_workers_train_as_one_does(size, config):
    one = list(train(config))
    with team(config, size) as (workers, processes):
        several = list(train(config, workers=workers))
        said = [process.communicate(timeout=60)[1].decode() for process in processes]
        assert [process.returncode for process in processes] == [0] * (size - 1), said
    assert [progress.step for progress in several] == [progress.step for progress in one]
    losses = [progress.metrics["loss"] for progress in one if progress.step]
    assert [progress.metrics["loss"] for progress in several if progress.step] == pytest.approx(losses, rel=1e-5)
    assert min(abs(a - b) for a, b in itertools.pairwise(losses)) > 1e-4 * losses[0]  # the tolerance tells steps apart
    # the untrained model is the same, so its samples are too, whoever drew them; a trained one differs by rounding
    assert torch.equal(several[0].samples, one[0].samples)
    assert numbers(several[0]) == numbers(one[0])
    assert (several[-1].samples != one[-1].samples).float().mean() < 0.01


def test_an_interrupted_training_of_two_workers_ends_bit_identical(tmp_path):
    config = vectors()
    with team(config, 2) as (workers, _):
        whole = list(train(config, tmp_path / "whole", workers))
    with team(config, 2) as (workers, _):
        interrupted = train(config, tmp_path / "cut", workers)
        for progress in interrupted:
            if progress.step == 7:
                break
        interrupted.close()
    with team(config, 2) as (workers, _):
        resumed = list(train(config, tmp_path / "cut", workers))
    assert [numbers(progress) for progress in resumed] == [numbers(progress) for progress in whole]
    found, expected = (read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("cut", "whole"))
    for part in ("model", "ema"):
        assert all(torch.equal(found[part][key], tensor) for key, tensor in expected[part].items())


def test_a_lost_worker_is_told_and_any_number_of_workers_goes_on(tmp_path):
    config = vectors()

    def lose_one():
        with team(config, 2) as (workers, processes):
            for progress in train(config, tmp_path, workers):
                if progress.step == 6:
                    processes[0].kill()
                    processes[0].wait()

    with pytest.raises(WorkerLostError, match="gone"):
        lose_one()
    kept = read_checkpoint(tmp_path / "checkpoint.pt")
    assert kept["step"] == 5
    assert [progress.step for progress in train(config, tmp_path)] == list(range(1, 12))
