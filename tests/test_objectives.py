"""Objectives of a sweep file: their facts come with the metric, and no key of the space may change what they mean."""

import pytest

from orchestrator.objectives import facts_of, known_metrics, recorded_facts

SWEEP = """name: s
data: digits
train: {steps: 4, batch_size: 5}
evaluate: {every: 2, samples: 11, size: 64, reference: 13, splits: 2}
search: {trials: 3, sampler: random, objective: OBJECTIVE}
arms:
  one:
    model: MODEL
    space:
      optimizer.lr: {low: 0.001, high: 0.1, log: true}
      SPACE
"""
MODELS = {
    "pixelcnn": "{name: pixelcnn, layers: 1, planes: 3}",
    "pixeliqn": "{name: pixeliqn, layers: 1, planes: 3}",
    "vae": "{name: vae, layers: 2, planes: 5}",
    "aiqn_vae": "{name: aiqn_vae, layers: 2, planes: 5}",
}


def sweep(model: str, objective: str, space: str = "schedule: [constant, decay]") -> str:
    return SWEEP.replace("OBJECTIVE", objective).replace("MODEL", MODELS[model]).replace("SPACE", space)


@pytest.mark.parametrize(
    ("objective", "seen"),
    [
        ("{metric: fd_lite0, direction: maximize}", "maximize"),
        ("{metric: is_lite0_mean, direction: minimize}", "minimize"),
    ],
)
def test_a_direction_that_contradicts_the_metric_is_refused(mistakes, objective, seen):
    (line,) = mistakes(sweep("pixelcnn", objective))
    assert line.startswith(f"s.yaml:5: search.objective.direction: saw '{seen}'")
    assert line.endswith("leave the direction out")


@pytest.mark.parametrize(
    ("model", "metric"),
    [("vae", "squared_error"), ("vae", "kl"), ("aiqn_vae", "prior_fd_lite0"), ("pixeliqn", "calibration_error")],
)
def test_whatever_an_arm_reports_can_be_its_objective_by_name_alone(load, model, metric):
    found = load(sweep(model, metric)).search.objectives
    assert [(one.metric, one.direction) for one in found] == [(metric, "minimize")]


def test_names_alone_stand_in_a_list_too(load):
    found = load(sweep("pixelcnn", "[bits_per_dim, is_lite0_mean]")).search.objectives
    assert [(one.metric, one.direction) for one in found] == [
        ("bits_per_dim", "minimize"),
        ("is_lite0_mean", "maximize"),
    ]


def test_a_name_that_no_arm_reports_is_told_with_the_nearest(mistakes):
    (line,) = mistakes(sweep("pixelcnn", "bits_per_dims"))
    assert "s.yaml:5: search.objective: saw 'bits_per_dims'; did you mean 'bits_per_dim'?" in line


@pytest.mark.parametrize(
    ("model", "key", "values"),
    [
        ("pixeliqn", "loss.kappa", "[0.0, 0.3]"),
        ("pixeliqn", "loss.kappa", "{low: 0.0, high: 0.3}"),
        ("pixeliqn", "loss.tau_sampling", "[uniform, stratified]"),
        ("vae", "model.kl_weight", "[0.5, 2.0]"),
        ("vae", "model.latent_variance", "[0.5, 2.0]"),
        ("aiqn_vae", "model.detach", "[true, false]"),
        ("aiqn_vae", "loss.kappa", "[0.0, 0.3]"),
    ],
)
def test_a_key_that_changes_what_the_objective_means_is_refused_at_its_line(load, mistakes, model, key, values):
    text = sweep(model, "loss", f"{key}: {values}")
    (line,) = mistakes(text)
    assert line.startswith("s.yaml:11: ")
    assert f"{key} changes what the objective loss means" in line
    load(sweep(model, "fd_lite0", f"{key}: {values}"))  # what samples look like has its own meaning


def test_the_same_key_inside_a_branch_is_found(mistakes):
    (line,) = mistakes(sweep("pixeliqn", "loss", "optimizer.name: {adam: {loss.kappa: [0.0, 0.3]}, sgd: }"))
    assert "loss.kappa changes what the objective loss means" in line


def test_a_branch_that_sets_the_key_is_blamed_by_its_choice(mistakes):
    (line,) = mistakes(sweep("pixeliqn", "loss", "optimizer.name: {adam: {loss.kappa: [0.3]}, sgd: }"))
    assert "optimizer.name changes what the objective loss means" in line


def test_recorded_facts_have_no_unit_where_the_space_changes_it(load):
    facts = recorded_facts(load(sweep("pixeliqn", "fd_lite0", "loss.kappa: [0.0, 0.3]")).arms)["one"]
    assert facts["loss"]["unit"] is None
    assert facts["fd_lite0"]["unit"]
    assert (facts["fd_lite0"]["direction"], facts["is_lite0_mean"]["direction"]) == ("minimize", "maximize")


def test_every_model_has_its_metrics_in_the_table_of_editors():
    assert {"fid", "fd_lite0", "test_nll", "squared_error", "prior_fid", "calibration_error"} <= known_metrics().keys()


def test_facts_that_an_earlier_version_did_not_record_are_those_of_this_one():
    recorded = {
        name: {key: value for key, value in metric.facts().items() if key not in ("up_to_real", "objection")}
        for name, metric in known_metrics().items()
    }
    recorded["is_lite0_mean"]["low"] = 0.5
    recorded["of_later_versions"] = {"name": "of_later_versions", "direction": "maximize", "shape": "round"}
    found = facts_of({"metrics": {"one": recorded}})["one"]
    assert found["is_lite0_mean"].up_to_real
    assert found["is_lite0_mean"].low == 0.5
    assert found["kd_lite0"].objection
    assert found["fd_lite0"] == known_metrics()["fd_lite0"]
    assert found["of_later_versions"].direction == "maximize"
