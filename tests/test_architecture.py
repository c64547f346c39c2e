"""The arrows of the design: which room may import what, tested in fresh interpreters."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    path.relative_to(ROOT).as_posix(): path
    for room in ("aiqn_core", "orchestrator", "reports")
    for path in (ROOT / room).rglob("*.py")
}


def imports(path):
    """Top-level names that a file imports anywhere, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def importers(name):
    return {file for file, path in FILES.items() if name in imports(path)}


def loaded_by(statement):
    """The top-level modules in a fresh interpreter after one statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


def test_each_outside_system_has_one_door():
    assert importers("ray") == {"orchestrator/search.py", "orchestrator/submit/ray_jobs.py"}  # only its job client
    written = {file for file in FILES if file.startswith("orchestrator/tracking/")}
    assert importers("mlflow") <= written | {"orchestrator/bulk.py", "orchestrator/stored.py", "reports/source.py"}
    doors = ("earlier", "journal", "ledger", "parking", "ranking", "replay", "samplers", "seen", "sequences", "space")
    doors += ("views",)
    assert importers("optuna") <= {f"orchestrator/{name}.py" for name in doors}


def test_the_kinds_of_cluster_know_the_job_and_never_the_reverse():
    arrows = {}
    for file, path in FILES.items():
        if file.startswith("orchestrator/submit/"):
            asked = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            names = {f"{node.module}.{alias.name}" for node in asked for alias in node.names}
            arrows[path.stem] = {name.split(".")[2] for name in names if name.startswith("orchestrator.submit.")}
    assert arrows.pop("targets") == {"Target", "job", "kuberay", "ray_jobs", "slurm"}
    below = {"job": set(), "slurm_script": {"job"}, "slurm": {"job", "slurm_script"}, "member": {"slurm_script"}}
    assert {name: knows for name, knows in arrows.items() if knows - below.get(name, {"job"})} == {}


def test_the_core_knows_only_itself():
    for file, path in FILES.items():
        if file.startswith("aiqn_core/"):
            assert not {"orchestrator", "reports", "ray", "optuna", "mlflow", "pandas"} & set(imports(path)), file


def test_reports_never_see_ray_or_torch():
    for file, path in FILES.items():
        if file.startswith("reports/"):
            assert not {"ray", "torch", "aiqn_core"} & set(imports(path)), file


def test_the_core_imports_with_torch_numpy_jaxtyping_and_pydantic_alone():
    modules = [file.removesuffix(".py").replace("/", ".") for file in FILES if file.startswith("aiqn_core/")]
    loaded = loaded_by("import " + ", ".join(name for name in modules if not name.endswith("__init__")))
    assert "torch" in loaded
    absent = {"sklearn", "PIL", "efficientnet_lite_pytorch", "ray", "optuna", "mlflow", "pandas", "scipy"}
    assert not absent & loaded


def test_the_run_folder_needs_the_standard_library_only():
    standard = set(sys.stdlib_module_names) | {"orchestrator", "aiqn_core", "__main__"}
    third_party = {name for name in loaded_by("import orchestrator.runs") if not name.startswith("_")} - standard
    assert third_party <= loaded_by("pass")


def test_reports_load_neither_torch_nor_ray():
    assert not {"torch", "ray", "mlflow"} & loaded_by("import reports.html")


@pytest.mark.parametrize("module", ["orchestrator.cli", "orchestrator.sweep"])
def test_light_modules_stay_light(module):
    assert not {"torch", "ray", "mlflow", "optuna", "pandas", "altair"} & loaded_by(f"import {module}")


def test_help_comes_without_heavy_imports():
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "--help"], capture_output=True, text=True, check=True
    )
    print(f"aiqn --help took {time.perf_counter() - begin:.2f} s")
    assert "sweep" in result.stdout
