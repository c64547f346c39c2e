"""Trivial generators against what they are by definition, and what a trial records of them."""

import json
import math
import threading

import numpy as np
import pytest
import torch
from scipy import stats

from aiqn_core.baselines import baseline_scores, table_bits, trivial_images, trivial_vectors, unseen_images
from aiqn_core.config import TrainConfig
from aiqn_core.data import ImageData, load_data
from aiqn_core.training import protocol, reference_images
from orchestrator.runs import RunFolder


def made_of(train, labels, test):
    train, test = torch.as_tensor(train, dtype=torch.uint8), torch.as_tensor(test, dtype=torch.uint8)
    labels = torch.as_tensor(labels, dtype=torch.int64)
    return ImageData("made", train, labels, test, torch.zeros(len(test), dtype=torch.int64), int(labels.max()) + 1, "c")


def settings(samples, reference=7, data="digits"):
    evaluate = {"samples": samples, "reference": reference, "size": 64, "splits": 2}
    model = {"name": "pixelcnn", "layers": 2, "planes": 8}
    return TrainConfig.from_dict({"model": model, "data": {"name": data}, "train": {"steps": 1}, "evaluate": evaluate})


def random_images(count, seed, channel=2, height=3, width=5):
    return np.random.RandomState(seed).randint(0, 256, (count, channel, height, width))


def slow_bits(train, test, dim):
    """The table of one neighbour by dictionaries and loops."""
    total = 0.0
    for c in range(train.shape[1]):
        marginal, pairs = {}, {}
        for value in train[:, c].flatten():
            marginal[int(value)] = marginal.get(int(value), 0) + 1
        size = train[:, c].size
        p = [(marginal.get(v, 0) + 1) / (size + 256) for v in range(256)]
        for before, after in _neighbours(train[:, c], dim):
            pairs.setdefault(before, []).append(after)
        for image in test[:, c]:
            for y, x in np.ndindex(image.shape):
                value, (up, left) = int(image[y, x]), (y - (dim == "upper"), x - (dim == "left"))
                seen = pairs.get(int(image[up, left]), []) if up >= 0 and left >= 0 else []
                total -= math.log2((seen.count(value) + p[value]) / (len(seen) + 1))
    return total / test.size


def _neighbours(images, dim):
    for image in images:
        for y, x in np.ndindex(image.shape):
            up, left = y - (dim == "upper"), x - (dim == "left")
            if up >= 0 and left >= 0:
                yield int(image[up, left]), int(image[y, x])


@pytest.mark.parametrize("levels", [3, 256])
def test_tables_of_neighbours_are_what_loops_count(levels):
    train, test = random_images(11, seed=1) % levels, random_images(7, seed=2) % levels
    bits = table_bits(torch.as_tensor(train, dtype=torch.uint8), torch.as_tensor(test, dtype=torch.uint8))
    for dim in ("left", "upper"):
        assert bits[dim] == pytest.approx(slow_bits(train, test, dim))
    assert bits["histograms"] == pytest.approx(slow_histograms(train, test))


def slow_histograms(train, test):
    total = 0.0
    for c, y, x in np.ndindex(train.shape[1:]):
        size = train[:, c].size
        for value in test[:, c, y, x]:
            p = ((train[:, c] == value).sum() + 1) / (size + 256)
            total -= math.log2(((train[:, c, y, x] == value).sum() + p) / (len(train) + 1))
    return total / test.size


def test_tables_learn_what_a_neighbour_tells():
    """Rows that repeat their left pixel cost nearly nothing after it, and 8 bits by themselves."""
    train = random_images(400, seed=3, channel=1, height=4, width=1).repeat(6, axis=3)
    test = random_images(50, seed=4, channel=1, height=4, width=1).repeat(6, axis=3)
    bits = table_bits(torch.as_tensor(train, dtype=torch.uint8), torch.as_tensor(test, dtype=torch.uint8))
    assert bits["left"] == pytest.approx(8 / 6, abs=0.3)
    assert bits["upper"] > 7.5
    assert bits["histograms"] > 7.5


def test_real_images_are_those_that_the_reference_does_not_hold():
    data = load_data(settings(11).data)
    config = settings(samples=400, reference=1390)
    real = unseen_images(config, data)
    assert len(real) == 297 + 103
    assert torch.equal(real[:297], data.test[:297])
    seen = {image.numpy().tobytes() for image in reference_images(config.evaluate, data)}
    assert not any(image.numpy().tobytes() in seen for image in real[297:])
    assert len(unseen_images(settings(samples=500, reference=1390), data)) == 297 + 110
    assert torch.equal(unseen_images(settings(samples=13), data), data.test[:13])


def test_gaussians_have_the_moments_of_each_class_in_its_proportion():
    random = np.random.RandomState(5)
    mixed = np.array([[3.0, 0, 0], [2, 4, 0], [-3, 1, 5]])
    dark = 80 + random.standard_normal((900, 3)) @ mixed.T
    light = 170 + random.standard_normal((100, 3)) @ mixed
    train = np.concatenate([dark, light]).round().astype(np.uint8).reshape(1000, 1, 1, 3)
    data = made_of(train, [0] * 900 + [1] * 100, train[:5])
    drawn = trivial_images(settings(samples=4000), data)["gaussian"].double().flatten(1)
    for low, high, known, share in ((0, 125, train[:900], 0.9), (125, 256, train[900:], 0.1)):
        part = drawn[(drawn.mean(1) >= low) & (drawn.mean(1) < high)]
        assert len(part) == 4000 * share
        known = known.reshape(-1, 3).astype(float)
        assert part.mean(0).numpy() == pytest.approx(known.mean(0), abs=1)
        assert torch.cov(part.T).numpy() == pytest.approx(np.cov(known.T), abs=8)


def test_histograms_keep_each_place_and_lose_what_joins_them():
    column = np.random.RandomState(6).randint(0, 256, (3000, 1, 1, 1))
    train = np.concatenate([column, 255 - column], axis=3)
    drawn = trivial_images(settings(samples=2000), made_of(train, [0] * 3000, train[:5]))["histograms"].double()
    assert float(drawn.mean()) == pytest.approx(train.mean(), abs=4)
    assert abs(float(torch.corrcoef(drawn.flatten(1).T)[0, 1])) < 0.1


def test_shifted_images_are_training_images_moved_by_one_pixel():
    train = random_images(9, seed=7, channel=1, height=4, width=5)
    padded = np.pad(train, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    allowed = {
        padded[i, :, y : y + 4, x : x + 5].astype(np.uint8).tobytes()
        for i, y, x in np.ndindex(9, 3, 3)
        if (y, x) != (1, 1)
    }
    drawn = trivial_images(settings(samples=100), made_of(train, [0] * 9, train[:5]))["shifted"]
    found = {image.numpy().tobytes() for image in drawn}
    assert found <= allowed
    assert len(found) > 40


def test_ten_images_are_repeated_as_often_as_any_other():
    train = random_images(23, seed=8)
    drawn = trivial_images(settings(samples=37), made_of(train, [0] * 23, train[:5]))["repeated"]
    assert torch.equal(drawn, torch.as_tensor(train[[i % 10 for i in range(37)]], dtype=torch.uint8))


def test_scores_are_kept_and_tell_good_from_bad(tmp_path):
    config = settings(samples=60, reference=300)
    data = load_data(config.data)
    scores = baseline_scores(config, data, tmp_path)
    assert list(scores) == ["real", "gaussian", "histograms", "shifted", "repeated", "left", "upper"]
    assert scores["real"]["fd_lite0"] < scores["gaussian"]["fd_lite0"] < scores["histograms"]["fd_lite0"]
    assert scores["repeated"]["coverage_lite0"] < scores["real"]["coverage_lite0"]
    assert scores["left"].keys() == {"bits_per_dim"}
    assert scores["real"]["samples"] == 60
    (kept,) = tmp_path.glob("baselines-*.json")
    assert json.loads(kept.read_text()) == scores
    kept.write_text('{"real": {"fd_lite0": 1}}')
    assert baseline_scores(config, data, tmp_path) == {"real": {"fd_lite0": 1}}
    kept.write_text('{"real": ')
    assert baseline_scores(config, data, tmp_path) == scores


def test_vectors_have_generators_too():
    evaluate = {"samples": 500, "reference": 700}
    config = TrainConfig.from_dict(
        {"model": {"name": "made"}, "data": {"name": "banana2d"}, "train": {"steps": 1}, "evaluate": evaluate}
    )
    data = load_data(config.data)
    scores, vectors = baseline_scores(config, data), trivial_vectors(config, data)
    assert scores["real"]["energy_distance"] < scores["gaussian"]["energy_distance"]
    assert scores["real"]["wasserstein1_mean"] < scores["repeated"]["wasserstein1_mean"]
    known, test = (part.double().numpy() for part in (data.train, data.test))
    gaussian = stats.multivariate_normal(known.mean(0), np.cov(known.T))
    assert scores["gaussian"]["test_nll"] == pytest.approx(-gaussian.logpdf(test).mean() / 2)
    assert scores["gaussian"]["test_nll"] > data.true_nll
    assert np.cov(vectors["gaussian"].double().numpy().T) == pytest.approx(np.cov(known.T), rel=0.3, abs=0.2)
    for dim in range(2):  # each dimension has its own values
        assert set(vectors["histograms"][:, dim].tolist()) <= set(data.train[:, dim].tolist())


def test_a_run_keeps_the_scores_of_every_protocol_whoever_writes_at_the_same_time(tmp_path):
    run = RunFolder(tmp_path)
    threads = [
        threading.Thread(target=run.add_baselines, args=({"samples": n, "labels": "x"}, {"real": {"fd": float(n)}}))
        for n in range(13)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run.read_baselines()) == 13
    assert run.baselines_of({"samples": 7, "model_weights": "last"}) == {"real": {"fd": 7.0}}
    assert run.baselines_of({"samples": 99}) is None
    run.add_baselines({"samples": 7}, {"real": {"fd": 5.0}})
    assert run.baselines_of({"samples": 7}) == {"real": {"fd": 5.0}}


@pytest.mark.parametrize("damage", ["{", "[]", '{"baselines": 3}', '{"baselines": [1, {"protocol": {}}]}'])
def test_damaged_scores_are_none(tmp_path, damage):
    run = RunFolder(tmp_path)
    run.baselines.write_text(damage)
    assert run.read_baselines() == []


def test_only_what_decides_the_scores_is_part_of_the_key(tmp_path):
    one, other = settings(samples=20), settings(samples=20)
    data = load_data(one.data)
    run = RunFolder(tmp_path)
    run.add_baselines(protocol(one, data), {"real": {"fd": 5.0}})
    assert run.baselines_of({**protocol(other, data), "model_weights": "averaged"}) is not None
    assert run.baselines_of(protocol(settings(samples=21), data)) is None
