"""Other images under the same name between two starts: refused, with both checksums named and nothing lost."""

import json

import numpy as np
import pytest

from aiqn_core.prepared import read_about, writing
from orchestrator.runs import RunFolder, RunFolderError, read_json, write_json
from orchestrator.start import open_run
from orchestrator.trial import Assignment, run_trial

TEXT = """
name: mine
data: {name: mine}
arms: {cnn: {model: {name: pixelcnn}}}
search: {trials: 2}
evaluate: {features: lite0}
"""


def prepare(folder, seed):
    random = np.random.RandomState(seed)
    with writing(folder, {"name": "mine", "classes": []}, shuffle=False) as writer:
        for split, count in (("train", 11), ("test", 7)):
            writer.append(split, random.randint(0, 256, (count, 1, 8, 8), np.uint8), np.zeros(count, np.int64))
    return f"mine {read_about(folder)['checksum']}"


def test_a_start_with_other_data_is_refused(tmp_path, monkeypatch, load):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path))
    first, run = prepare(tmp_path / "mine", 5), RunFolder(tmp_path / "runs" / "mine")
    sweep = load(TEXT)
    run.path.mkdir(parents=True)
    open_run(run, sweep)
    before = run.sweep_json.read_bytes()
    assert json.loads(before)["data"] == {"mine": first}
    second = prepare(tmp_path / "mine", 6)
    with pytest.raises(RunFolderError, match=f"{first} .*{second}"):
        open_run(run, sweep)
    assert run.sweep_json.read_bytes() == before
    config = sweep.config("cnn", {}, 0).to_dict()
    with pytest.raises(RunFolderError, match=f"{first} .*{second}"):
        next(run_trial(Assignment("cnn", "search", 0, config, {}, 0), run, threads=1))
    prepare(tmp_path / "mine", 5)
    open_run(run, sweep)
    assert run.sweep_json.read_bytes() == before


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_folder_of_before_goes_on_with_the_data_of_its_trials(tmp_path, monkeypatch, load, recorded):
    monkeypatch.setenv("AIQN_DATA", str(tmp_path))
    data, run = prepare(tmp_path / "mine", 5), RunFolder(tmp_path / "runs" / "mine")
    sweep = load(TEXT)
    run.path.mkdir(parents=True)
    open_run(run, sweep)
    content = read_json(run.sweep_json)
    del content["data"]
    write_json(run.sweep_json, content)
    folder = run.trial("cnn-search-0")
    folder.path.mkdir(parents=True)
    protocol = {"data": "mine 0123456789abcdef"} if recorded else {}
    config = sweep.config("cnn", {}, 0).to_dict()
    content = {"format": 1, "config": config, "params": {}, "seed": 0, "source": None}
    write_json(folder.config, {**content, "provenance": {"protocol": protocol}})
    if recorded:
        with pytest.raises(RunFolderError, match=f"mine 0123456789abcdef .*{data}"):
            open_run(run, sweep)
    else:
        open_run(run, sweep)
        assert read_json(run.sweep_json)["data"] == {"mine": data}
