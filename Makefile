# Two commands for a newcomer: `make sweep` and `make test`. Both set up what they need.
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: sweep test chaos cluster latex bench lint clean

sweep: .venv/installed
	$(BIN)/aiqn sweep sweeps/quickstart.yaml

# One process more than there are cores, for many tests wait for others (Ray, MLflow).
test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses=$$(($$(nproc) + 1)) --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# Kills of drivers, trials, Ray and MLflow's server, pauses, damaged folders, a full disk (for which it needs root).
chaos: .venv/installed
	$(BIN)/python -m pytest -m chaos --durations=0 --numprocesses=2 --dist=worksteal

# Several Ray nodes, Slurm, Ray's Job API and PostgreSQL, all started on this machine, for which it needs root.
cluster: .venv/installed
	(for tool in ip sbatch munged setpriv curl /usr/lib/postgresql/*/bin/initdb; do \
		command -v $$tool > /dev/null || exit 1; done) \
		|| (apt-get update -qq && apt-get install -qq -y iproute2 slurm-wlm munge postgresql curl)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,cluster]'
	$(BIN)/python -m pytest -m cluster --capture=tee-sys --durations=0 tests/test_cluster.py

# Every table of a report through pdflatex, which it installs where it may.
latex: .venv/installed
	command -v pdflatex > /dev/null \
		|| (apt-get update -qq && apt-get install -qq -y --no-install-recommends texlive-latex-recommended texlive-latex-extra)
	$(BIN)/python -m pytest -m cluster tests/test_latex.py

# Speed as ratios, and whether the goals are reached: about ten minutes on two cores. Numbers also as JSON.
bench: .venv/installed
	mkdir -p build/bench
	for name in sampling training evaluation packing; do \
		$(BIN)/python benchmarks/$$name.py --json build/bench/$$name.json || exit 1; \
	done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv *.egg-info
