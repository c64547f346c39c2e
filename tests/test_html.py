import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_folders import QUESTION, PageReader, page_of, record, write_sweep, write_trial

import reports.html
from orchestrator.runs import RunFolder, write_json
from reports.answer import answer as answer_of
from reports.html import write_report
from reports.results import read_results


def test_the_page_needs_nothing_else(finished: RunFolder) -> None:
    page = page_of(finished)
    reader = PageReader(page)
    assert reader.open == []
    assert "http:" not in page
    assert "https:" not in page
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    here = Path(reports.html.__file__).parent
    script = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    assert script == [(here / "hover.js").read_text() + (here / "trials.js").read_text()]
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page  # so that no other script runs
    inside = {f"#{place}" for place in re.findall(r'<section id="([^"]*)"', page)}
    assert inside == {address for address in reader.addresses if address.startswith("#")}  # the contents list
    outside = set(reader.addresses) - inside
    files = [address for address in outside if not address.startswith("data:image/png;base64,")]
    assert files
    assert [name for name in files if not (finished.report / name).is_file()] == []
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_the_page_tells_the_story_in_order(finished: RunFolder) -> None:
    text = PageReader(page_of(finished)).text
    headings = ["Comparison", "Learning curves", "Samples", "The search", "Best configurations"]
    headings += ["Every trial accounted for", "Cost", "Provenance", "Reproduce"]
    assert re.findall(r"<h2>(.*)</h2>", page_of(finished)) == headings
    answer = answer_of(read_results(finished.path)).sentence
    story = [QUESTION, answer, "Comparison", "Learning curves", "aiqn sweep sweeps/quickstart.yaml"]
    assert [text.index(words) for words in story] == sorted(text.index(words) for words in story)
    assert "finished: 16 trials" in text
    assert "2 trials failed, diverged or stopped" in text
    assert "FID" not in text.partition("Metric names")[0]
    assert "pixelcnn-search-3 (failed)" in text  # hover titles


def test_settings_that_all_arms_share_are_said_once(folder: RunFolder) -> None:
    def head() -> str:
        write_report(folder.path)
        return page_of(folder).partition("<table")[2].partition("</thead>")[0]

    shared = head()
    assert "Finals of every arm: seeds 2 of 2, steps 1,500, samples 1,000, reference 1,437</caption>" in shared
    assert ">Samples<" not in shared
    final = folder.trial("pixeliqn-final-0").metrics
    records = [json.loads(line) for line in final.read_text().splitlines()]
    final.write_text("".join(json.dumps({**one, "samples": 500}) + "\n" for one in records))
    assert ">Samples<" in head()  # a column of its own again, for it is no longer the same


def test_samples_are_those_of_the_lowest_seed_at_its_largest_step(finished: RunFolder) -> None:
    reader = PageReader(page_of(finished))
    assert reader.images == 1 + 2 * (1 + 6)
    assert "pixeliqn-final-0, seed 0, step 1,500" in reader.text


def test_text_from_the_run_folder_cannot_become_markup(folder: RunFolder) -> None:
    content = json.loads(folder.sweep_json.read_text()) | {"question": "<script>alert(1)</script>?"}
    write_json(folder.sweep_json, content)
    hostile = {"optimizer.name": "<b>\"&'</b>|_$"}
    write_trial(folder, "pixelcnn", "search", 4, [], params=hostile, message="<img src=x>")
    page = write_report(folder.path).read_text()
    assert page.count("<script") == 1
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert '<b>"' not in page
    assert PageReader(page).open == []


def test_an_unfinished_sweep_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder, finished=False)
    for number in range(3):
        write_trial(folder, "pixelcnn", "search", number, [record("pixelcnn", number, 600, 512)])
    write_trial(folder, "pixeliqn", "search", 0, [record("pixeliqn", 0, 200, 512)], state="running")
    text = PageReader(write_report(folder.path).read_text()).text
    assert "unfinished: 3 of 16 trials done" in text
    assert "No final results yet" in text
    assert "No completed trial for pixeliqn" in text
    assert "pixeliqn: best 0 of 0" in text
    assert "No picture of real data is recorded" in text


@pytest.mark.parametrize(
    "history", [[], [{"step": 0, "time": 1.0}], [{"step": 5, "seconds": 1.0, "fd_lite0": float("nan")}]]
)
def test_trials_without_numbers_are_shown_as_missing(history: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder, final=None)
    for stage in ("search", "final"):
        write_trial(folder, "pixelcnn", stage, 0, history, source=0 if stage == "final" else None)
    folder.real.write_bytes(b"not a PNG")
    text = PageReader(write_report(folder.path).read_text()).text
    assert "No answer yet: no trial has completed." in text
    assert "No evaluation with fd_lite0 is recorded yet." in text
    assert not re.search(r"\b(nan|none|inf)\b", text.lower().replace("none yet", "").replace(": none.", ""))


def test_a_sweep_that_has_not_started_has_a_report(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_sweep(folder, finished=False)
    assert "unfinished: 0 of 16 trials done" in PageReader(write_report(folder.path).read_text()).text
