import numpy as np
import pytest
from sweep_files import SMALL

from aiqn_core.prepared import writing
from orchestrator.document import SweepError
from orchestrator.sweep import load_sweep

FIVE = """\
# Five mistakes?
name: five
train: {steps: 100, bach_size: 8}
search:
  trials: six
  sampler: tpee
arms:
  one:
    model: pixelcnn
    space:
      optimizer.lr: {low: 1e-2, high: 1e-4}
  two:
    modle: pixeliqn
evaluate: {every: 50}
"""


def test_five_mistakes_give_five_lines(mistakes):
    assert mistakes(FIVE) == [
        "s.yaml:3: train.bach_size: unknown key; did you mean 'batch_size'? "
        "valid: steps, batch_size, ema_decay, ema_warmup, clip_norm, log_every",
        "s.yaml:5: search.trials: saw 'six', expected an integer >= 1",
        "s.yaml:6: search.sampler.name: saw 'tpee'; did you mean 'tpe'? "
        "valid: random, grid, qmc, tpe, gp, cmaes, nsga2, nsga3",
        "s.yaml:11: arms.one.space.optimizer.lr: saw an empty range, low 0.01 above high 0.0001, expected low <= high",
        "s.yaml:13: arms.two.modle: unknown key; did you mean 'model'? "
        "valid: data, model, loss, optimizer, schedule, train, evaluate, space, command, values, files",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: small", "nmae: small", ["2: name: missing, expected", "2: nmae: unknown key; did you mean 'name'?"]),
        ("name: small", "name: ../small", ["2: name: saw '../small', expected up to 100 letters"]),
        ("name: small", "name: .small", ["2: name: saw '.small'"]),
        ("name: small", "name: 7", ["2: name: saw 7, expected a string"]),
        ("  one:", "  one/two:", ["7: arms.one/two: saw the name 'one/two', expected up to 64"]),
        ("  one:", "  one-two:", ["7: arms.one-two: saw the name"]),
        ("  one:", "  7:", ["7: arms.7: saw the name 7"]),
        ("  one:", '  "a\\nb":', ["7: arms.a\\nb: saw the name 'a\\nb'"]),
        ("{trials: 3}", "{trials: 0}", ["5: search.trials: saw 0, expected an integer >= 1"]),
        ("{trials: 3}", "{trials: true}", ["5: search.trials: saw True, expected an integer"]),
        ("{trials: 3}", "[3]", ["5: search: saw [3], expected a mapping with keys among: trials, sampler"]),
        ("{trials: 3}", "{seed: -1}", ["5: search.seed: saw -1, expected an integer >= 0"]),
        (
            "{trials: 3}",
            "{objective: {metric: fit}}",
            ["5: search.objective.metric: saw 'fit'; valid: fd_lite0, is_lite0_mean, kd"],
        ),
        (
            "{trials: 3}",
            "{objective: {metric: bits_per_dim}}",
            ["12: arms.two.model.name: saw 'pixeliqn', which reports no bits_per_dim; expected another search"],
        ),
        ("{trials: 3}", "{trials: 3, sampler: grid}", ["10: arms.one.space.optimizer.lr: saw a continuous range"]),
        ("{steps: 7}", "{steps: 4}", ["4: evaluate.every: saw 5, expected at most train.steps = 4"]),
        ("steps: 13", "steps: 4", ["17: final: evaluate.every: saw 5, expected at most train.steps = 4"]),
        ("steps: 13", "evaluate: {every: 9}", ["17: final.evaluate.every: saw 9, expected at most train.steps = 7"]),
        ("steps: 13", "evaluate: {evry: 9}", ["17: final.evaluate.evry: unknown key; did you mean 'every'?"]),
        ("top: 2", "top: 4", ["17: final.top: saw 4, expected at most search.trials = 3"]),
        ("[5, 11]", "[5, 5]", ["17: final.seeds: saw [5, 5], expected seeds that differ"]),
        ("[5, 11]", "[5, x]", ["17: final.seeds[1]: saw 'x', expected an integer"]),
        ("[5, 11]", "[]", ["17: final.seeds: saw []"]),
        (
            "train: {steps: 7}",
            "data: cifar10\ntrain: {steps: 7}",
            ["3: data.name: saw 'cifar10', but no dataset.json in"],
        ),
        ("train: {steps: 7}", "loss: {kappa: 0.5}\ntrain: {steps: 7}", ["3: loss.kappa: saw 0.5, but pixelcnn"]),
        ("{steps: 7}", "7", ["3: train: saw 7, expected a mapping with keys among: steps, batch_size"]),
        ("train: {steps: 7}", "train: {steps: 7}\nresources: {cpu: 1.5}", ["4: resources.cpu: saw 1.5, expected a fr"]),
        (
            "train: {steps: 7}",
            "train: {steps: 7}\nresources: {gpu: 0.5, workers: 2}",
            ["4: resources.workers: saw 2, expected 1, as gpu is 0.5"],
        ),
        (
            "train: {steps: 7}",
            "train: {steps: 7, batch_size: 5}\nresources: {workers: 7}",
            ["3: train.batch_size: saw 5, expected at least one for each of resources.workers = 7"],
        ),
        (
            "train: {steps: 7}",
            "train: {steps: 7}\ncluster: {gpus: -1, env: {A B: x}, slurm: {partition: a b, time: 3}}",
            [
                "4: cluster.gpus: saw -1, expected an integer >= 0",
                "4: cluster.env: saw {'A B': 'x'}, expected names of letters, digits and '_', not A B",
                "4: cluster.slurm.partition: saw 'a b', expected one word of letters",
                "4: cluster.slurm.time: unknown key",
            ],
        ),
        (
            "train: {steps: 7}",
            "train: {steps: 7}\nbudget: {hours: .inf}",
            ["4: budget.hours: saw inf, expected a number > 0"],
        ),
        ("train: {steps: 7}", "train: {steps: 7, 5: 6}", ["3: train.5: unknown key"]),
        ("train: {steps: 7}", "train: {steps: 7}\n5: 6", ["4: 5: saw the key 5, expected a word"]),
    ],
)
def test_each_mistake_has_its_line(mistakes, old, new, expected):
    assert old in SMALL
    found = mistakes(SMALL.replace(old, new, 1))
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"s.yaml:{start}"), line


def test_a_default_that_only_some_arms_refuse_names_them(mistakes):
    (line,) = mistakes(SMALL.replace("train:", "loss: {kappa: 0.5}\ntrain:"))
    assert line.endswith("(in arm one)")


def test_a_key_of_some_choices_is_to_be_nested(mistakes):
    flat = "optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\n      optimizer.name: [adam, sgd, rmsprop]"
    text = SMALL.replace("optimizer.lr: {low: 1e-4, high: 1e-2, log: true}", flat, 1)
    (line,) = mistakes(text.replace(flat, f"{flat}\n      optimizer.momentum: {{low: 0.0, high: 0.5}}"))
    assert line == (
        "s.yaml:12: arms.one.space.optimizer.momentum: saw 0.0, but adam has no momentum; it has: "
        "lr, weight_decay, beta1, beta2, eps, amsgrad; "
        "nest it inside the choices that take it: "
        "optimizer.name: {sgd: {optimizer.momentum: ...}, rmsprop: {optimizer.momentum: ...}}"
    )
    (line,) = mistakes(text.replace("{name: pixelcnn, layers: 2}", "pixelcnn\n    optimizer: {momentum: 0.5}"))
    assert line == (
        "s.yaml:9: arms.one.optimizer.momentum: saw 0.5, but adam has no momentum; it has: lr, weight_decay, "
        "beta1, beta2, eps, amsgrad "
        '(when optimizer.name is "adam")'
    )


def test_integers_inside_a_range_are_tried_too(mistakes):
    (line,) = mistakes(
        SMALL.replace("optimizer.lr: {low: 1e-4, high: 1e-2, log: true}", "model.kernel: {low: 3, high: 5}")
    )
    assert line == "s.yaml:10: arms.one.space.model.kernel: saw 4, expected an odd integer"


def test_a_grid_cannot_give_more_trials_than_it_has_points(mistakes):
    text = "name: g\n\nsearch: {trials: 5, sampler: grid}\narms:\n  a: {space: {optimizer.lr: [1, 2]}}\n"
    (line,) = mistakes(text)
    assert line == "s.yaml:3: search.trials: saw 5, but the grid of arm a has 2 points; expected at most 2"


def test_without_arms_the_other_sections_are_still_checked(mistakes):
    lines = mistakes("name: x\ntrain: {stepz: 3}\n")
    assert [line.split(" saw")[0].split("; ")[0] for line in lines] == [
        "s.yaml:1: arms: missing, expected at least one arm, such as pixelcnn: {model: pixelcnn}",
        "s.yaml:2: train.stepz: unknown key",
    ]


def test_any_data_name_goes_with_a_path(load):
    text = SMALL.replace("train:", "data: {name: cifar10, path: /data}\ntrain:")
    assert load(text, check_data=False).arms["one"].base["data"] == {"name": "cifar10", "path": "/data"}
    with pytest.raises(SweepError, match=r"aiqn data prepare cifar10 --from <archive or folder> --to /data"):
        load(text)


def test_a_conditional_model_needs_classes(load, tmp_path):
    """Small ImageNet was published without: all its images are of one class."""
    text = SMALL.replace("name: pixelcnn,", "name: pixelcnn, conditional: true,")
    for classes in (1, 5):
        folder = tmp_path / f"{classes}"
        with writing(folder, {"name": "cifar10", "classes": []}, shuffle=False) as writer:
            for split in ("train", "test"):
                writer.append(split, np.zeros((7, 3, 32, 32), np.uint8), np.arange(7) % classes)
        data = f"data: {{name: cifar10, path: {folder}}}\n"
        if classes == 1:
            with pytest.raises(SweepError, match=r"s.yaml:\d+: arms.one.model.conditional: saw true, .* no classes"):
                load(data + text)
            load(data + SMALL)
        else:
            load(data + text)


def test_a_conditional_model_needs_a_training_image_of_every_class(load, tmp_path):
    text = SMALL.replace("name: pixelcnn,", "name: pixelcnn, conditional: true,")
    with writing(tmp_path / "it", {"name": "cifar10", "classes": list("abcdef")}, shuffle=False) as writer:
        for split, count in (("train", 5), ("test", 11)):
            writer.append(split, np.zeros((count, 3, 32, 32), np.uint8), np.arange(count) % 6)
    data = f"data: {{name: cifar10, path: {tmp_path / 'it'}}}\n"
    expected = r"s.yaml:\d+: arms.one.model.conditional: saw true, but cifar10 has no training image of class 5"
    with pytest.raises(SweepError, match=expected):
        load(data + text)
    load(data + SMALL)


def test_images_and_vectors_have_scores_of_their_own(tmp_path):
    path = tmp_path / "s.yaml"
    arms = "arms:\n  aiqn: {model: aiqn}\n  pixelcnn: {model: pixelcnn}\n"
    path.write_text(f"name: s\ndata: gaussian2d\nsearch: {{objective: {{metric: fd_lite0}}}}\n{arms}")
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    first, second = map(str, caught.value.problems)
    assert "arms.aiqn.model.name: saw 'aiqn', which reports no fd_lite0; expected another search.objective" in first
    assert "it reports: energy_distance, wasserstein1_mean" in first
    assert "arms.pixelcnn.model.name: saw 'pixelcnn', a model of images, but gaussian2d is data of vectors" in second
    with pytest.raises(SweepError, match="saw 'pixelcnn', which reports no energy_distance"):
        load_sweep(
            path, ["data.name=digits", "arms.aiqn.model.name=pixeliqn", "search.objective.metric=energy_distance"]
        )
