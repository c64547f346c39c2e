from pathlib import Path

import pytest
from run_folders import record, write_trial

from orchestrator.runs import RunFolder, RunFolderError
from reports.html import write_report
from reports.results import chosen_finals, ranked, read_results


def test_a_pruned_trial_is_never_the_best_however_good_its_last_value(folder: RunFolder) -> None:
    write_trial(folder, "pixeliqn", "search", 9, [record("pixeliqn", 4, 200, 512, shift=-200.0)], state="pruned")
    assert "pixeliqn-search-9" not in [run.id for run in ranked(read_results(folder.path), "pixeliqn")]


def test_one_lucky_seed_does_not_beat_a_configuration_with_all_seeds(folder: RunFolder) -> None:
    lucky = [record("pixelcnn", 4, 1500, 1000, shift=-30.0)]
    write_trial(folder, "pixelcnn", "final", 2, lucky, seed=0, source=1)
    chosen = chosen_finals(read_results(folder.path), "pixelcnn")
    assert [run.source for run in chosen] == [4, 4]


@pytest.mark.parametrize("content", [None, "{", '{"format": 2}', '{"format": 1, "name": "x", "sweep": {}}'])
def test_an_unreadable_run_folder_is_one_plain_error(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "sweep.json").write_text(content)
    with pytest.raises(RunFolderError, match="run"):
        write_report(tmp_path / "run")
