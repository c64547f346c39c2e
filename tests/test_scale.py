"""Trivial generators beside the arms: only under the same protocol, in one ranking, with the right words."""

import json

import pytest
from run_folders import results_with, write_baselines

from orchestrator.runs import RunFolder, write_json
from reports.answer import answer
from reports.comparison import comparison
from reports.curves import LEVEL_ROOM, caption, curve_frame, learning_figures, level_layers
from reports.figures import HEIGHT
from reports.html import write_report
from reports.results import read_results
from reports.scale import baseline_table, baselines, levels, scale


def test_arms_and_generators_stand_in_one_ranking(finished):
    table = baseline_table(read_results(finished.path))
    assert table.data["generator"].tolist() == ["real", "pixeliqn", "gaussian", "pixelcnn", "repeated", "left"]
    values = table.data["fd_lite0"].dropna().tolist()
    assert values == sorted(values)
    shown = table.shown.set_index("Arm")
    assert shown.loc["Real images", "fd_lite0 ↓"] == "20.25"
    assert shown.loc["Real images", "Samples"] == "797"
    assert shown.loc["pixeliqn", "fd_lite0 ↓"] == "61.02 ± 0.57"
    assert shown.loc["One Gaussian per class", "is_lite0_mean ↑"] == "3.031"
    assert shown.loc["Table of left neighbours", ["fd_lite0 ↓", "is_lite0_mean ↑"]].tolist() == ["—", "—"]
    assert any("only 797 real images" in note for note in table.notes)


def test_what_another_protocol_gave_is_shown_nowhere(folder):
    content = json.loads(folder.baselines.read_text())
    content["baselines"][0]["protocol"]["size"] = 64
    write_json(folder.baselines, content)
    results = read_results(folder.path)
    assert baselines(results) == {}
    assert baseline_table(results).shown.empty
    assert scale(results) == ""
    assert levels(results, results.objective) == {}
    write_report(folder.path)
    assert "trivial" not in (folder.report / "index.html").read_text()


def test_arms_that_were_measured_in_different_ways_have_no_common_scale(folder):
    path = folder.trial("pixelcnn-final-0").config
    content = json.loads(path.read_text())
    content["provenance"]["protocol"]["reference"] = 77
    write_json(path, content)
    assert baselines(read_results(folder.path)) == {}


def test_the_search_has_a_scale_where_there_are_no_finals(folder):
    content = json.loads(folder.sweep_json.read_text())
    content["sweep"]["final"] = None
    write_json(folder.sweep_json, content)
    for path in folder.trials.glob("*-final-*/config.json"):
        path.unlink()
    assert baselines(read_results(folder.path)) == {}
    write_baselines(folder, samples=512)
    table = baseline_table(read_results(folder.path))
    assert set(table.data["generator"]) >= {"real", "pixelcnn", "pixeliqn"}


def test_the_page_says_how_good_the_arms_are(folder):
    results = read_results(folder.path)
    said = "For scale, fd_lite0 of real images 20.25, of one Gaussian per class 70.50, which pixelcnn does not beat."
    assert scale(results) == said
    assert said in answer(results).qualifier
    page = write_report(folder.path).read_text()
    assert said in page
    assert "Each pixel by itself" not in page  # this run has no such generator
    assert "One Gaussian per class" in page
    assert "One Gaussian per class" in (folder.report / "answer.md").read_text()
    assert (folder.report / "baselines.tex").exists()


def test_arms_that_beat_every_trivial_generator_are_not_named(tmp_path):
    results_with(tmp_path, {"a": [22.0, 23.0], "b": [25.0, 26.0]})
    write_baselines(RunFolder(tmp_path))
    assert scale(read_results(tmp_path)).endswith("of one Gaussian per class 70.50.")


def test_figures_have_a_line_for_each_generator_and_name_them(finished, tmp_path):
    results = read_results(finished.path)
    figure = learning_figures(results, tmp_path)[0]
    assert figure.name == "fd_lite0-by-step"
    for words in ("real images: 20.25", "one Gaussian per class: 70.50", "ten training images: 208.0"):
        assert words in figure.svg
    assert "Dashed: real images 20.25, one Gaussian per class 70.50, ten training images 208.0." in figure.caption


@pytest.mark.parametrize(("logarithmic", "near"), [(False, 100.3), (True, 101.0)])
def test_names_of_lines_that_lie_together_do_not_cover_each_other(logarithmic, near):
    lines = {"a": 100.0, "b": near, "c": 190.0}
    rule, _, text = level_layers(lines, 10.0, 200.0, logarithmic, None)
    assert rule.data["value"].tolist() == list(lines.values())
    assert text.data["name"].tolist() == ["a", "", "c"]
    assert text.data["label"].tolist()[1].startswith("b: 10")
    assert LEVEL_ROOM < HEIGHT / 10


def test_curves_of_what_arms_do_not_share_say_so(tmp_path):
    results = results_with(tmp_path, {"pixelcnn": [2.0, 2.1], "pixeliqn": [0.2, 0.3]}, objective="loss")
    metric = results.objective
    said = caption(results, metric, curve_frame(results, metric))
    assert "Arms cannot be compared here: loss is not the same quantity in all arms" in said
    assert comparison(results).strong == frozenset()
