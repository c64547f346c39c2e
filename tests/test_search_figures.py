import re

import pytest
from run_folders import params_of, record, write_trial

from reports.results import read_results
from reports.search_figures import budgets, effect_figures, search_figures


def test_each_figure_is_drawn_and_written(finished, tmp_path):
    figures = search_figures(read_results(finished.path), tmp_path)
    assert [figure.name for figure in figures] == ["search-order", "search-budget", "search-robustness"]
    for figure in figures:
        assert {path.suffix for path in tmp_path.glob(f"{figure.name}.*")} == {".svg", ".png", ".pdf"}
        assert "pixelcnn" in figure.svg  # in the legend


def test_points_tell_their_trial_on_hover(finished, tmp_path):
    figures = {figure.name: figure for figure in search_figures(read_results(finished.path), tmp_path)}
    titles = re.findall(r"<title>(.*?)</title>", figures["search-order"].svg, flags=re.S)
    assert sum(title.startswith("pixeliqn-search-") for title in titles) == 4  # those that completed
    assert any("optimizer.lr = " in title for title in titles)


def test_without_values_nothing_is_drawn_and_it_is_said(folder, tmp_path):
    for path in folder.trials.glob("*/metrics.jsonl"):
        path.unlink()
    figures = search_figures(read_results(folder.path), tmp_path)
    assert [figure.svg for figure in figures] == [None] * 3
    assert all("no search trial has completed yet" in figure.caption for figure in figures)
    assert effect_figures(read_results(folder.path), tmp_path) == {}


def test_effects_need_enough_trials(folder, tmp_path):
    assert effect_figures(read_results(folder.path), tmp_path) == {}
    for number in range(6, 12):
        write_trial(
            folder,
            "pixeliqn",
            "search",
            number,
            [record("pixeliqn", number, 600, 512)],
            params=params_of("pixeliqn", number),
        )
    (figure,) = effect_figures(read_results(folder.path), tmp_path).values()
    assert "optimizer.lr" in figure.svg


@pytest.mark.parametrize("total", [1, 7, 60, 61, 500])
def test_budgets_go_from_one_to_all(total):
    found = budgets(total)
    assert found[0] == 1
    assert found[-1] == total
    assert found == sorted(set(found))
    assert len(found) <= 60
