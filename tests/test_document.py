import pytest
from sweep_files import SMALL

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: saw an empty file, expected a mapping with keys among: name, code, data"),
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


def test_the_environment_fills_in_values(load):
    text = SMALL.replace("search: {trials: 3}", "search:\n  trials: ${TRIALS}")
    text += 'tracking: {uri: "http://${HOST}:${PORT}/$${x}"}\n'
    sweep = load(text, environ={"TRIALS": "5", "HOST": "h", "PORT": "7"})
    assert sweep.search.trials == 5
    assert sweep.tracking.uri == "http://h:7/${x}"
    assert "${TRIALS}" in sweep.text


def test_values_of_the_environment_are_text_not_yaml(load, mistakes):
    hostile = "sqlite:///x}\narms: {evil: {}}"
    assert load(SMALL + 'tracking: {uri: "${X}"}\n', environ={"X": hostile}).tracking.uri == hostile
    (line,) = mistakes(SMALL.replace("{trials: 3}", '{trials: "${X}"}'), environ={"X": "3"})  # quoted: a string
    assert line == "s.yaml:5: search.trials: saw '3', expected an integer >= 1"


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
        ("tracking.uri=http://a/b=c", lambda s: s.tracking.uri),
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
        "tracking.uri=http://a/b=c": "http://a/b=c",
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
