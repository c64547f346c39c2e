#!/usr/bin/env bash
# Optuna 5.0.0, JournalFileBackend: when a writer dies in the middle of a line (or before the line's final
# newline), the file still reads well, but the next writer does not begin a new line. Its entry is glued to the
# half line, its optimize() ends with an AttributeError about a private name, and as soon as one more entry
# follows, nobody can open the study any more.
#
# Seen: three finished trials, the last 40 bytes cut off: reading showed COMPLETE, COMPLETE, RUNNING. The first
# optimize() raised AttributeError ("... _last_created_trial_id_by_this_process"), and a fresh reader still showed
# the same three trials. After the second attempt every reader got JSONDecodeError. Cutting only the final newline
# did the same.
#
# Why it matters: a full disk, a quota or a killed node leaves exactly such a last line. The damage is done by the
# restarted worker, some time after the cause, and takes the results of all workers with it.
#
# What to do: before workers start again, cut the file back to its last newline (keep a copy); a study already
# glued is repaired by removing that one line.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv --without-pip "$dir/venv"
python3 -m pip --python "$dir/venv/bin/python" --quiet --disable-pip-version-check install --no-compile optuna==5.0.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import json

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def study():
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend("journal.log")))


def attempt(action):
    try:
        return action()
    except (AttributeError, json.JSONDecodeError) as error:
        return f"{type(error).__name__}: {error}"


def states():
    return [t.state.name for t in study().trials]


def objective(trial):
    return trial.suggest_float("x", 0, 1)


print("optuna", optuna.__version__)
optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend("journal.log")))
study().optimize(objective, n_trials=3)
whole = open("journal.log").read()
for cut in (40, 1):
    open("journal.log", "w").write(whole[:-cut])
    print(f"last {cut} byte(s) cut off:", states())
    assert states() == ["COMPLETE", "COMPLETE", "RUNNING"]
    first = attempt(lambda: study().optimize(objective, n_trials=1))
    print(" first writer:", first)
    assert first.startswith("AttributeError") and states() == ["COMPLETE", "COMPLETE", "RUNNING"]
    attempt(lambda: study().optimize(objective, n_trials=1))
    print(" readers after the second writer:", attempt(states))
    assert attempt(states).startswith("JSONDecodeError")

open("journal.log", "w").write(whole[: whole[:-1].rindex("\n") + 1])
study().optimize(objective, n_trials=1)
print("cut back to the last newline:", states())
assert states() == ["COMPLETE", "COMPLETE", "RUNNING", "COMPLETE"]
EOF
