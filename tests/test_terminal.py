"""What a sweep prints at its end, over run folders as in tests/run_folders.py."""

import pytest
from run_folders import build_run_folder, record, write_sweep, write_trial

from orchestrator.runs import RunFolder
from reports.answer import answer
from reports.results import read_results
from reports.terminal import WIDTH, terminal_text


def rows(text):
    return [line.split("  ") for line in text.rstrip().rpartition("\n\n")[2].splitlines()]


def test_the_answer_of_the_page_and_a_row_for_each_arm(finished):
    results = read_results(finished.path)
    text = terminal_text(results)
    assert " ".join(answer(results).sentence.split()) in " ".join(text.split())
    head, best, worse = rows(text)
    assert head[0] == "arm"
    assert (best[0], best[-1], worse[0], worse[-1]) == ("pixeliqn", "better than all others", "pixelcnn", "worse")
    assert "2 of 2" in " ".join(best)


@pytest.mark.parametrize("arms", [("a",), ("a", "b", "c" * 47), tuple(f"an_arm_of_a_long_name_{i}" for i in range(7))])
def test_it_fits_into_80_columns_and_loses_no_arm(tmp_path, arms):
    folder = RunFolder(tmp_path / "quickstart")
    write_sweep(folder, arms=arms)
    for place, arm in enumerate(arms):
        write_trial(folder, arm, "search", 0, [record("pixelcnn", place, 600, 512)])
    text = terminal_text(read_results(folder.path))
    assert max(map(len, text.splitlines())) <= WIDTH
    table = "".join(line.split()[0] for line in text[text.index("arm  ") :].splitlines())  # a long name goes on below
    assert all(arm in table for arm in arms)


def test_markup_in_a_name_is_shown_as_it_is(tmp_path):
    folder = build_run_folder(tmp_path / "quickstart")
    text = folder.sweep_json.read_text().replace("Does the quantile loss", "Does [bold]the :smile: quantile loss")
    folder.sweep_json.write_text(text)
    assert "Does [bold]the :smile: quantile" in terminal_text(read_results(folder.path))
