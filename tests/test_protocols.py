import shutil

from run_folders import SEEDS, build_run_folder, csv_rows, record, write_trial

from orchestrator.runs import RunFolder, load_runs
from reports.comparison import comparison
from reports.html import write_report
from reports.protocols import labels, separated
from reports.results import read_results


def measured_again(folder: RunFolder, arm: str, seeds: list[int], step: int, samples: int) -> None:
    """Finals of an arm as if they had been measured in another way."""
    for seed in seeds:
        shutil.rmtree(folder.trial(f"{arm}-final-{seed}").path)
        write_trial(folder, arm, "final", seed, [record(arm, 4, step, samples)], seed=seed, source=4)


def test_values_of_other_protocols_have_columns_of_their_own(folder: RunFolder) -> None:
    before = comparison(read_results(folder.path)).shown
    measured_again(folder, "pixeliqn", SEEDS, 1500, 777)
    table = comparison(read_results(folder.path))
    mine, theirs = "Final fd_lite0 ↓ (1,000 samples)", "Final fd_lite0 ↓ (777 samples)"
    cells = {row["Arm"]: (row[mine], row[theirs]) for row in table.shown.to_dict(orient="records")}
    assert cells["pixelcnn"] == (before["Final fd_lite0 ↓"][0], "—")
    assert cells["pixeliqn"][0] == "—" != cells["pixeliqn"][1]
    assert "Final fd_lite0 ↓" not in table.shown
    note = "Not in one column and not compared: samples is not the same in all final trials (1000, 777)."
    assert note in table.notes
    write_report(folder.path)
    rows = {row["arm"]: row for row in csv_rows(folder.report / "comparison.csv")}
    assert rows["pixelcnn"]["final_fd_lite0_mean (777 samples)"] == ""
    assert float(rows["pixeliqn"]["final_fd_lite0_mean (777 samples)"]) > 0
    assert "final_fd_lite0_mean" not in rows["pixelcnn"]


def test_seeds_of_other_protocols_have_no_mean(folder: RunFolder) -> None:
    measured_again(folder, "pixeliqn", SEEDS[:1], 1250, 1000)
    results = read_results(folder.path)
    shown = {row["Arm"]: row["Final fd_lite0 ↓"] for row in comparison(results).shown.to_dict(orient="records")}
    assert shown["pixeliqn"] == "—" != shown["pixelcnn"]
    assert any("steps is not the same in all final trials (1250, 1500)" in note for note in comparison(results).notes)


def test_labels_tell_what_differs_and_nothing_else(tmp_path) -> None:
    folder = build_run_folder(tmp_path / "quickstart")
    runs = {run.id: run for run in load_runs(folder.path)}
    search, final = [runs["pixelcnn-search-4"]], [runs["pixelcnn-final-0"], runs["pixelcnn-final-1"]]
    assert labels([search, final], "fd_lite0") == ["512 samples, 600 steps", "1,000 samples, 1,500 steps"]
    assert labels([final[:1], [], final[1:]], "fd_lite0") == ["", None, ""]
    assert labels([[*search, *final], final], "fd_lite0") == [None, ""]


def test_rows_of_one_protocol_stay_as_they_are() -> None:
    rows = [{"arm": "a", "value": 1}, {"arm": "b", "value": 2}, {"arm": "c", "value": 3}]

    def split(*names):
        return separated(rows, names, lambda column: column == "value", None)

    assert split("", "", "") == rows
    assert split("", None, "")[1] == {"arm": "b", "value": None}
    assert split("x", "y", None) == [
        {"arm": "a", "value (x)": 1, "value (y)": None},
        {"arm": "b", "value (x)": None, "value (y)": 2},
        {"arm": "c", "value (x)": None, "value (y)": None},
    ]
