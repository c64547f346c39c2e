"""The sweep file: what it becomes, and how every mistake in it is told."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from aiqn_core.config import TrainConfig
from orchestrator.space import combinations, suggest
from orchestrator.sweep import Sweep, SweepError, differences, json_schema, load_sweep, trial_seed

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"
EXAMPLES = int(os.environ.get("AIQN_FUZZ_EXAMPLES", "300"))
SMALL = """\
# Is seven more than five?
name: small
train: {steps: 7}
evaluate: {every: 5, samples: 11}
search: {trials: 3}
arms:
  one:
    model: {name: pixelcnn, layers: 2}
    space:
      optimizer.lr: {low: 1e-4, high: 1e-2, log: true}
  two:
    model: pixeliqn
    space:
      optimizer.name:
        adam: {optimizer.beta1: [0.5, 0.9]}
        sgd:
final: {top: 2, seeds: [5, 11], steps: 13}
"""


@pytest.fixture
def load(tmp_path):
    def load(text, overrides=(), environ=None, **options):
        path = tmp_path / "s.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_sweep(path, overrides, environ or {}, **options)

    return load


@pytest.fixture
def mistakes(load, tmp_path):
    def mistakes(text, overrides=(), environ=None):
        with pytest.raises(SweepError) as caught:
            load(text, overrides, environ)
        assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
        return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]

    return mistakes


# --- what a sweep is


def test_a_sweep_is_what_its_file_says(load):
    sweep = load(SMALL)
    assert (sweep.name, sweep.question, sweep.text) == ("small", "Is seven more than five?", SMALL)
    assert (sweep.search.trials, sweep.search.sampler, sweep.search.pruner) == (3, {"name": "tpe"}, {"name": "none"})
    assert (sweep.search.objective.metric, sweep.search.objective.direction) == ("fd_lite0", "minimize")
    assert (sweep.final.top, sweep.final.seeds, sweep.final.steps, sweep.final.evaluate) == (2, (5, 11), 13, {})
    assert (sweep.resources.cpu, sweep.resources.gpu, sweep.resources.retries) == (1, 0, 2)
    assert (sweep.budget.hours, sweep.tracking.uri) == (None, None)
    assert list(sweep.arms) == ["one", "two"]
    assert sweep.arms["two"].base["model"]["name"] == "pixeliqn"
    assert sweep.arms["two"].base["train"]["batch_size"] == TrainConfig().train.batch_size


def test_the_configuration_of_a_trial(load):
    sweep = load(SMALL)
    config = sweep.config("one", {"optimizer.lr": 3e-3}, 17)
    mapping = {
        "model": {"name": "pixelcnn", "layers": 2},
        "train": {"steps": 7},
        "evaluate": {"every": 5, "samples": 11},
        "optimizer": {"lr": 3e-3},
        "seed": 17,
    }
    assert config == TrainConfig.from_dict(mapping)
    assert sweep.final_config("one", {"optimizer.lr": 3e-3}, 5) == TrainConfig.from_dict(
        {**mapping, "train": {"steps": 13}, "seed": 5}
    )


def test_the_evaluation_of_the_finals_is_laid_over_that_of_the_arm(load):
    text = SMALL.replace("steps: 13}", "evaluate: {samples: 23, initial: true}}")
    config = load(text).final_config("two", {"optimizer.name": "sgd"}, 5)
    assert (config.evaluate.every, config.evaluate.samples, config.evaluate.initial) == (5, 23, True)
    assert config.train.steps == 7


def test_quickstart_is_the_experiment_of_the_readme():
    sweep = load_sweep(QUICKSTART)
    assert sweep.question.startswith("Does the quantile loss beat the likelihood")
    params = suggest(
        FixedTrial(
            {
                "optimizer.name": "sgd",
                "optimizer.lr | optimizer.name=sgd": 0.1,
                "schedule": "decay",
                "loss.kappa": 0.0,
            }
        ),
        sweep.arms["pixeliqn"].space,
    )
    config = sweep.final_config("pixeliqn", params, 1)
    assert (config.optimizer.name, config.optimizer.lr, config.schedule.name) == ("sgd", 0.1, "decay")
    assert (config.train.steps, config.evaluate.every, config.evaluate.samples) == (800, 200, 1000)
    assert (config.loss.kappa, config.evaluate.size) == (0.0, 64)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_of_the_repository(path):
    sweep = load_sweep(path, check_data=False)
    for arm in sweep.arms.values():
        for params in combinations(arm.space):
            config = sweep.config(arm.name, params, 0)
            assert TrainConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(sweep)) == sweep
    assert sweep.question.endswith("?")
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


def test_the_resolved_sweep_is_json_that_says_everything(load):
    resolved = load(SMALL).to_dict()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["search"]["pruner"] == {"name": "none"}
    assert resolved["final"]["seeds"] == [5, 11]
    assert resolved["arms"]["one"]["space"]["optimizer.lr"] == {"low": 1e-4, "high": 1e-2, "log": True, "step": None}
    minimal = load("name: m\narms: {a: {model: pixelcnn}}").to_dict()
    assert minimal["final"] is None
    assert minimal["tracking"] == {"uri": None}


def test_trial_seeds_are_a_pure_function_of_31_bits():
    seeds = {(s, arm, n): trial_seed(s, arm, n) for s in (0, 5) for arm in ("a", "b") for n in range(50)}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert max(seeds.values()) > 2**30
    code = "from orchestrator.sweep import trial_seed; print(trial_seed(5, 'b', 11))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(again.stdout) == trial_seed(5, "b", 11)


def test_optuna_is_not_imported_with_the_module():
    code = (
        "import sys, orchestrator.sweep; print([m for m in ('optuna', 'torch', 'ray', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("opening", "question"),
    [
        ("# yaml-language-server: $schema=x.json\n# Is it\n# so?\n#  aiqn sweep\n", "Is it so?"),
        ("# Copyright.\n#\n# Is it?\n", "Is it?"),
        ("# A statement.\n", "small"),
        ("", "small"),
    ],
)
def test_the_question_is_the_comment_that_opens_the_file(load, opening, question):
    assert load(opening + SMALL.partition("\n")[2] + "# Too late?\n").question == question


def test_the_direction_follows_the_metric(load):
    def objective(text):
        return load(SMALL.replace("{trials: 3}", f"{{trials: 3, objective: {text}}}")).search.objective

    assert objective("{metric: is_lite0_mean}").direction == "maximize"
    assert objective("{metric: kd_lite0}").direction == "minimize"
    assert objective("{metric: is_lite0_mean, direction: minimize}").direction == "minimize"


# --- mistakes


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
        "s.yaml:5: search.trials: saw 'six', expected an integer",
        "s.yaml:6: search.sampler.name: saw 'tpee'; did you mean 'tpe'? "
        "valid: random, grid, qmc, tpe, gp, cmaes, nsga2, nsga3",
        "s.yaml:11: arms.one.space.optimizer.lr: saw an empty range, low 0.01 above high 0.0001, expected low <= high",
        "s.yaml:13: arms.two.modle: unknown key; did you mean 'model'? "
        "valid: data, model, loss, optimizer, schedule, train, evaluate, space",
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
        ("{trials: 3}", "{trials: 0}", ["5: search.trials: saw 0, expected a number >= 1"]),
        ("{trials: 3}", "{trials: true}", ["5: search.trials: saw True, expected an integer"]),
        ("{trials: 3}", "[3]", ["5: search: saw [3], expected a mapping with keys among: trials, sampler"]),
        ("{trials: 3}", "{seed: -1}", ["5: search.seed: saw -1, expected a number >= 0"]),
        ("{trials: 3}", "{objective: {metric: fid}}", ["5: search.objective.metric: saw 'fid'; valid: fd_lite0"]),
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
            ["3: data.name: saw 'cifar10'; valid: digits, patches"],
        ),
        ("train: {steps: 7}", "loss: {kappa: 0.5}\ntrain: {steps: 7}", ["3: loss.kappa: saw 0.5, but pixelcnn"]),
        ("{steps: 7}", "7", ["3: train: saw 7, expected a mapping with keys among: steps, batch_size"]),
        ("train: {steps: 7}", "train: {steps: 7}\nresources: {cpu: 1.5}", ["4: resources.cpu: saw 1.5, expected a fr"]),
        (
            "train: {steps: 7}",
            "train: {steps: 7}\nbudget: {hours: .inf}",
            ["4: budget.hours: saw inf, expected a finite"],
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
        "lr, beta1, beta2, eps; "
        "nest it inside the choices that take it: "
        "optimizer.name: {sgd: {optimizer.momentum: ...}, rmsprop: {optimizer.momentum: ...}}"
    )
    (line,) = mistakes(text.replace("{name: pixelcnn, layers: 2}", "pixelcnn\n    optimizer: {momentum: 0.5}"))
    assert line == (
        "s.yaml:9: arms.one.optimizer.momentum: saw 0.5, but adam has no momentum; it has: lr, beta1, beta2, eps "
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


# --- the text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: saw an empty file, expected a mapping with keys among: name, data"),
        ("# only a comment\n", "1: saw an empty file"),
        ("- 1\n- 2\n", "1: saw [1, 2], expected a mapping"),
        ("name: x\narms: [1\n", "3: not YAML: expected ',' or ']'"),
        ("name: x\n\tarms: 1\n", "2: not YAML: found character '\\t'"),
        ("name: x\n---\nname: y\n", "2: not YAML: but found another document"),
        ("name: *x\n", "1: not YAML: found undefined alias 'x'"),
        ("name: x\ntracking: {uri: ${URI}}\n", "2: not YAML: expected ',' or '}', but got '{'; write \"${NAME}\" in"),
        (b"name: x\ny: \xff\n", "2: saw byte 0xff, expected text in UTF-8"),
        ("name: x\ny: \x07\n", "2: saw the character 0x7, expected YAML in plain text"),
        ("[" * 100_000, "1: not YAML: nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "1: expected at most 50000 values, nested at most 40 deep"),
        ("a: &a [*a]", "1: expected at most 50000 values, nested at most 40 deep"),
        ("x" * 2**20 + "x", ": saw more than 1048576 bytes, expected a sweep file"),
    ],
)
def test_what_is_no_sweep_file_is_one_clear_line(mistakes, text, expected):
    (line,) = mistakes(text)
    assert line.startswith(f"s.yaml:{expected}".replace("::", ":")), line


def test_aliases_cannot_explode(mistakes):
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12))
    (line,) = mistakes(f"l0: &l0 [x, x]\n{levels}\n")
    assert "expected at most 50000 values" in line


def test_missing_files_and_folders(tmp_path):
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory"), ("a\0b", "null byte")):
        with pytest.raises(SweepError) as caught:
            load_sweep(path)
        (line,) = str(caught.value).splitlines()
        assert reason in line
        assert "expected a sweep file in YAML" in line


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system", "!x 5", "!!set {a}", "!!binary aGk="]
)
def test_tags_are_refused(mistakes, tag):
    lines = mistakes(SMALL.replace("{steps: 7}", tag))
    assert lines[0].startswith("s.yaml:3: train: saw the tag ")
    assert lines[0].endswith("expected plain values without tags")


def test_a_key_that_stands_twice_is_refused_with_both_lines(mistakes):
    (line,) = mistakes(SMALL.replace("final:", "search: {trials: 4}\nfinal:"))
    assert line == "s.yaml:17: search: saw the key twice, first at line 5; expected it once"


def test_scalars_are_those_of_yaml_1_2(load):
    def lr(text):
        return load(SMALL.replace("train:", f"optimizer: {{lr: {text}}}\ntrain:")).arms["two"].base["optimizer"]["lr"]

    assert [lr(text) for text in ("1e-4", "1.0e-4", "+1E-4", "1", "0x10", "0o17", ".5")] == [
        1e-4,
        1e-4,
        1e-4,
        1,
        16,
        15,
        0.5,
    ]


@pytest.mark.parametrize(
    ("text", "seen"), [("yes", "'yes'"), ("1:30", "'1:30'"), ("1_000", "'1_000'"), (".nan", "nan")]
)
def test_words_of_yaml_1_1_are_no_numbers(mistakes, text, seen):
    (line,) = mistakes(SMALL.replace("train:", f"optimizer: {{lr: {text}}}\ntrain:"))
    assert line == f"s.yaml:3: optimizer.lr: saw {seen}, expected a number > 0 (in arm two)"  # the other has its own


def test_integers_are_bounded(mistakes):
    for digits in (20, 400, 5000):
        (line,) = mistakes(SMALL.replace("train:", f"optimizer: {{lr: {'9' * digits}}}\ntrain:"))[:1]
        assert line.startswith("s.yaml:3: optimizer.lr: saw ")
        assert len(line) < 1300


def test_anchors_and_merge_keys(load):
    text = """\
name: merged
arms:
  a: {model: pixelcnn, space: &common {optimizer.lr: [0.1, 0.2], model.layers: [2, 3]}}
  b: {space: {model.layers: [5, 7, 11], <<: *common, loss.kappa: [0.5]}}
"""
    space = load(text).to_dict()["arms"]["b"]["space"]
    assert space == {"optimizer.lr": [0.1, 0.2], "model.layers": [5, 7, 11], "loss.kappa": [0.5]}


# --- environment and overrides


def test_the_environment_fills_in_values(load):
    text = SMALL.replace("search: {trials: 3}", "search:\n  trials: ${TRIALS}")
    text += 'tracking: {uri: "http://${HOST}:${PORT}/$${x}"}\n'
    sweep = load(text, environ={"TRIALS": "5", "HOST": "h", "PORT": "7"})
    assert sweep.search.trials == 5
    assert sweep.tracking.uri == "http://h:7/${x}"
    assert "${TRIALS}" in sweep.text


def test_values_of_the_environment_are_text_not_yaml(load, mistakes):
    hostile = "x}\narms: {evil: {}}"
    assert load(SMALL + 'tracking: {uri: "${X}"}\n', environ={"X": hostile}).tracking.uri == hostile
    (line,) = mistakes(SMALL.replace("{trials: 3}", '{trials: "${X}"}'), environ={"X": "3"})  # quoted: a string
    assert line == "s.yaml:5: search.trials: saw '3', expected an integer"


def test_a_missing_variable_has_its_line(mistakes):
    text = SMALL + 'tracking: {uri: "${MLFLOW_URL}"}\n'
    assert mistakes(text, environ={"MLFLOW_URI": "x", "HOME": "y"}) == [
        "s.yaml:18: tracking.uri: saw ${MLFLOW_URL}, but the environment has no MLFLOW_URL; set it, or write "
        "$${MLFLOW_URL}; did you mean 'MLFLOW_URI'?"
    ]
    assert "expected ${NAME}" in mistakes(SMALL + 'tracking: {uri: "${a b}"}\n')[0]


def test_an_override_replaces_what_was_wrong(load):
    sweep = load(FIVE, ["search.trials=2", "search.sampler=random", "train={steps: 50}", "arms.two={model: pixeliqn}",
                        "arms.one.space.optimizer.lr.high=1"])  # fmt: skip
    assert (sweep.search.trials, sweep.search.sampler["name"]) == (2, "random")
    assert sweep.arms["one"].space.dimensions[0].high == 1.0
    text = SMALL + 'tracking: {uri: "${NOPE}"}\n'
    assert load(text, ["tracking.uri=null"]).tracking.uri is None


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("search.sampler.n_startup_trials=7", lambda s: s.search.sampler),
        ("search.seed=5", lambda s: s.search.seed),
        ("arms.two.model.layers=3", lambda s: s.arms["two"].base["model"]["layers"]),
        ("arms.two.space.loss.kappa=[0.5, 0.25]", lambda s: s.to_dict()["arms"]["two"]["space"]["loss.kappa"]),
        (
            "arms.two.space.optimizer.name.sgd.optimizer.momentum=[0.5]",
            lambda s: s.to_dict()["arms"]["two"]["space"]["optimizer.name"]["spaces"]["sgd"],
        ),
        ("resources.gpu=0.5", lambda s: s.resources.gpu),
        ("tracking.uri=a=b", lambda s: s.tracking.uri),
        ("schedule=decay", lambda s: s.arms["one"].base["schedule"]["name"]),
    ],
)
def test_overrides_reach_every_key(load, override, read):
    expected = {
        "search.sampler.n_startup_trials=7": {"name": "tpe", "n_startup_trials": 7},
        "search.seed=5": 5,
        "arms.two.model.layers=3": 3,
        "arms.two.space.loss.kappa=[0.5, 0.25]": [0.5, 0.25],
        "arms.two.space.optimizer.name.sgd.optimizer.momentum=[0.5]": {"optimizer.momentum": [0.5]},
        "resources.gpu=0.5": 0.5,
        "tracking.uri=a=b": "a=b",
        "schedule=decay": "decay",
    }
    text = SMALL.replace("{trials: 3}", "{trials: 3, sampler: tpe}")
    assert read(load(text, [override])) == expected[override]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.trails=2", "--set search.trails=2: unknown key; did you mean 'trials'? valid: trials"),
        ("search.trials=x", "--set search.trials=x: saw 'x', expected an integer"),
        ("search.trials", "--set search.trials: expected key=value, for example --set search.trials=2"),
        ("=2", "--set =2: expected key=value"),
        ("search..trials=2", "--set search..trials=2: expected key=value"),
        ("name.x=2", "--set name.x=2: name: saw 'small', which holds no keys; expected a mapping"),
        ("search.trials=[", "--set search.trials=[: not YAML: "),
        ("final.evaluate.every=99", "--set final.evaluate.every=99: saw 99, expected at most train.steps = 13"),
        ("arms.two.space.lr=[1]", "--set arms.two.space.lr=[1]: names no key of the configuration; did you mean"),
        ("train.steps=${N}", "--set train.steps=${N}: saw ${N}, but the environment has no N"),
        ("a\nb=1", "--set a\\nb=1: "),
    ],
)
def test_mistakes_in_overrides_are_shown_as_typed(mistakes, override, expected):
    assert mistakes(SMALL, [override])[0].startswith(expected)


def test_mistakes_of_the_file_come_before_those_of_overrides(mistakes):
    lines = mistakes(FIVE, ["search.seed=x", "final.top=y"])
    assert [line.partition(": ")[0] for line in lines] == [
        *(f"s.yaml:{n}" for n in (3, 5, 6, 11, 13)),
        "--set search.seed=x",
        "--set final.top=y",
    ]


# --- what a running sweep may change


def changed(load, *replacements, start=SMALL):
    text = start
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return differences(json.loads(json.dumps(load(start).to_dict())), load(text).to_dict())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 3", "trials: 7"),
        ("# Is", "# Was"),
        ("top: 2", "top: 3"),
        ("[5, 11]", "[5, 11, 7]"),
        ("steps: 13", "steps: 17"),
        ("train: {steps: 7}", "train: {steps: 7}\nresources: {cpu: 2}\nbudget: {hours: 5}\ntracking: {uri: x}"),
        ("  two:", "  three: {model: pixelcnn}\n  two:"),
    ],
)
def test_additions_continue_a_sweep(load, old, new):
    assert changed(load, (old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("trials: 3", "trials: 2", ["search.trials"]),
        ("{trials: 3}", "{trials: 3, seed: 5}", ["search.seed"]),
        ("{trials: 3}", "{trials: 3, sampler: {name: tpe, n_startup_trials: 7}}", ["search.sampler.n_startup_trials"]),
        ("steps: 7", "steps: 11", ["arms.one.train.steps", "arms.two.train.steps"]),
        ("high: 1e-2", "high: 1e-1", ["arms.one.space.optimizer.lr.high"]),
        ("beta1: [0.5, 0.9]", "beta1: [0.9, 0.5]", ["arms.two.space.optimizer.name.spaces.adam.optimizer.beta1"]),
        ("  two:", "  deux:", ["arms.two"]),
        ("top: 2", "top: 1", ["final.top"]),
        ("[5, 11]", "[11, 5]", ["final.seeds"]),
        ("[5, 11]", "[5]", ["final.seeds"]),
        ("steps: 13", "steps: 11", ["final.steps"]),
        (", steps: 13", "", ["final.steps"]),
        ("steps: 13", "steps: 13, evaluate: {seed: 3}", ["final.evaluate.seed"]),
        ("final: {top: 2, seeds: [5, 11], steps: 13}\n", "", ["final"]),
    ],
)
def test_changes_of_meaning_are_named(load, old, new, keys):
    assert changed(load, (old, new)) == keys


def test_finals_may_be_added_and_the_order_of_choices_counts(load):
    without = SMALL.replace("final: {top: 2, seeds: [5, 11], steps: 13}\n", "")
    assert differences(load(without).to_dict(), load(SMALL).to_dict()) == []
    text = without.replace(
        "        adam: {optimizer.beta1: [0.5, 0.9]}\n        sgd:\n", "        sgd:\n        adam:\n"
    )
    assert "arms.two.space.optimizer.name.choices" in differences(load(without).to_dict(), load(text).to_dict())


# --- the schema


def test_the_schema_in_the_repository_is_up_to_date():
    stored = (ROOT / "sweeps" / "sweep.schema.json").read_text()
    assert stored == json.dumps(json_schema(), indent=2) + "\n", (
        "run: python -m orchestrator.sweep > sweeps/sweep.schema.json"
    )


@pytest.mark.parametrize(
    "old", ["trials: 3", "layers: 2", "high: 1e-2", "optimizer.lr: {", "steps: 13", "model: pixeliqn"]
)
def test_the_schema_refuses_what_the_loader_refuses(mistakes, old):
    jsonschema.Draft202012Validator.check_schema(json_schema())
    text = SMALL.replace("1e-4", "1.0e-4").replace("1e-2", "1.0e-2").replace("high: 1e-2", "high: 1.0e-2")
    old = old.replace("1e-2", "1.0e-2")
    jsonschema.validate(yaml.safe_load(text), json_schema())
    wrong = text.replace(old, f"x{old}", 1)
    assert mistakes(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(wrong), json_schema())


# --- whatever is in the file


SEEDS = [yaml.safe_load(SMALL.replace("1e-", "1.0e-")), yaml.safe_load(QUICKSTART.read_text())]
WORDS = [
    "name",
    "search",
    "arms",
    "space",
    "optimizer.lr",
    "low",
    "high",
    "adam",
    "pixelcnn",
    "<<",
    "${HOME}",
    "${",
    "!x",
]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS), st.dates()
)
values = st.recursive(
    scalars, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(scalars, v, max_size=3)), max_leaves=6
)


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from places(value[i], (*path, i))


@st.composite
def mutated_files(draw):
    document = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from([path for path in places(document) if path] or [("name",)]))
        holder = document
        for key in above:
            holder = holder[key]
        action = draw(st.sampled_from(["delete", "rename", "retype", "copy"]))
        if action == "retype" or (isinstance(holder, list) and action != "delete"):
            holder[last] = draw(values)
        elif action == "copy":
            holder[draw(st.sampled_from(WORDS))] = copy.deepcopy(holder.get(last))
        elif (isinstance(holder, dict) and last in holder) or isinstance(holder, list):
            moved = holder.pop(last)
            if action == "rename":
                holder[draw(scalars)] = moved
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=draw(st.booleans()))
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 1, 5]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(mutated_files(), st.lists(st.text("search.trials=0[]{}:,'\"$&*!#\n x", max_size=16), max_size=2))
@example(b"name: x\narms: {a: {space: {model.layers: {low: 0, high: 9223372036854775807}}}}", [])
@example(b"name: x\narms: {a: {space: {train.steps: {low: 1, high: 9, step: 0}}}}", ["arms.a.space.train.steps.step=3"])
@example(b"? [a]\n: 1\n? {b: 1}\n: 2\n", [])
@example(b"<<: 1\nname: {<<: [1, {a: 2}]}\n", ["name.a=1"])
def test_whatever_is_in_the_file_it_is_a_sweep_or_an_error(tmp_path_factory, content, overrides):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    error = None
    try:
        sweep = load_sweep(path, overrides, {"HOME": "7"})
    except SweepError as caught:
        error = caught
        sweep = None
    if error is not None:
        lines = str(error).splitlines()
        assert len(lines) == len(error.problems) > 0
        assert all(line.startswith((f"{path}:", "--set ")) for line in lines)
        assert not any("pydantic" in line or "Traceback" in line for line in lines)
    else:
        assert isinstance(sweep, Sweep)
        assert json.loads(json.dumps(sweep.to_dict())) == sweep.to_dict()
        for arm in sweep.arms.values():
            sweep.config(arm.name, next(combinations(arm.space)), 0)


def test_toy2d_compares_four_models_of_vectors():
    sweep = load_sweep(ROOT / "sweeps" / "toy2d.yaml")
    configs = {arm: sweep.config(arm, {"optimizer.lr": 0.01, "schedule": "decay"}, 5) for arm in sweep.arms}
    assert list(configs) == ["made", "aiqn", "aiqn_independent", "aiqn_shared"]
    assert [config.model.dependence for config in configs.values()] == [
        None,
        "autoregressive",
        "independent",
        "shared",
    ]
    assert all(sweep.search.objective.metric in config.metrics for config in configs.values())


def test_images_and_vectors_have_scores_of_their_own(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ndata: gaussian2d\narms:\n  aiqn: {model: aiqn}\n  pixelcnn: {model: pixelcnn}\n")
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
