"""The `aiqn` command: each command parses, calls one function and prints. Heavy imports happen inside."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from orchestrator.causes import State
from orchestrator.outcome import (
    DONE,
    INTERRUPTED,
    TRIALS_FAILED,
    WRONG_INPUT,
    RequestError,
    folder_to_write,
    plain_errors,
)
from orchestrator.submit import Target
from orchestrator.trial_commands import trial_app
from orchestrator.words import HELP, Commands, runs_that_begin, trials_of_run

if TYPE_CHECKING:
    from orchestrator.plan import Rates
    from orchestrator.runs import Run
    from orchestrator.sections import Sweep

app = typer.Typer(
    name="aiqn",
    help="Compare generative models, each tuned with the same budget, from one sweep file.",
    no_args_is_help=True,
    cls=Commands,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

data_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="The images on your disk.")
app.add_typer(data_app, name="data")
app.add_typer(trial_app)


RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run folder, for example runs/quickstart.", autocompletion=runs_that_begin),
]


def print_version(asked: bool) -> None:
    """Print our version, and that of Python, and end."""
    if asked:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        with suppress(PackageNotFoundError):
            print(f"aiqn {version('aiqn')} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Compare generative models, each tuned with the same budget, from one sweep file."""


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file.")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where run folders are kept.")] = Path("runs"),
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and say what would be run.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start also where the plan is above the budget.")] = False,
) -> None:
    """Start a sweep, or continue it: to resume, run the same command again.

    Example: aiqn sweep sweeps/quickstart.yaml --set search.trials=2
    """
    with plain_errors():
        from orchestrator.sweep import load_sweep

        loaded = load_sweep(file, set_ or ())
        if dry_run:
            continued = continued_by(loaded, runs)
            describe(loaded, runs, continued)
            from orchestrator.preflight import check_here

            check_here(loaded, runs)
            return
        within_budget(loaded, runs, yes)
        from orchestrator.notify import end_of, is_finished, notify
        from orchestrator.runs import RunFolder
        from orchestrator.supervisor import supervise

        run = RunFolder(runs / loaded.name)
        before = is_finished(run)
        code = supervise(lambda: drive(loaded, runs))
        if loaded.notify and (wrong := notify(loaded.notify, run, end_of(run, code, finished_before=before))):
            print(wrong, file=sys.stderr)
        raise typer.Exit(code)


def drive(loaded: "Sweep", runs: Path) -> None:
    """Train, and say how it went."""
    with plain_errors():
        from orchestrator.live import view_for
        from orchestrator.start import train

        train(loaded, runs, view_for())
        conclude(runs / loaded.name)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
) -> None:
    """Train each arm for a few steps and say whether its method is resumable, reproducible and in shape.

    Example: aiqn check examples/flow/sweep.yaml
    """
    with plain_errors():
        from orchestrator.check import check_arms
        from orchestrator.sweep import load_sweep

        wrong = False
        for arm, problems, shown in check_arms(load_sweep(file, set_ or ())):
            print("\n".join(f"{arm}: {told}" for told in problems or [shown]), flush=True)
            wrong = wrong or bool(problems)
        if wrong:
            raise typer.Exit(WRONG_INPUT)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file.")],
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure on this machine for about 30 s.")] = False,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Take the times of an earlier run of the same models.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs that will be there; else those of this machine.")
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where run folders are kept.")] = Path("runs"),
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
) -> None:
    """Say what a sweep will cost before anything is spent: trials, steps, hours, wall clock, disk, memory.

    Example: aiqn plan sweeps/quickstart.yaml --calibrate
    """
    with plain_errors():
        from orchestrator import plan as planning
        from orchestrator.rehearsal import rehearsal_lines
        from orchestrator.runs import RunFolder
        from orchestrator.sweep import load_sweep

        loaded = load_sweep(file, set_ or ())
        run, continued = RunFolder(runs / loaded.name), continued_by(loaded, runs)
        rates, basis = planning.stored_rates(run, loaded)
        if calibrate:
            rates, basis = calibrated(loaded)
        elif source is not None:
            rates, basis = planning.rates_of_run(source, loaded), f"the times recorded in {source}"
        made = planning.make_plan(loaded, rates, basis, gpus)
        planning.store_plan(run, made, rates)
        lines = [*planning.plan_lines(made), *planning.over_budget(made, loaded)]
        lines += rehearsal_lines(loaded, made.slots)
        print("\n".join(lines + ([continued] if continued else [])))
        print_notes(loaded)
        if calibrate and loaded.resources.gpu:
            from orchestrator.calibration import packing_advice

            print("\n" + packing_advice(loaded))


@app.command()
def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN ...", help="Run folders, or one mlflow:EXPERIMENT.", autocompletion=runs_that_begin
        ),
    ],
    to: Annotated[str | None, typer.Option(metavar="DIR", help="Where to; else RUN/report or report-NAME.")] = None,
    uri: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow's store; else that of runs/NAME or $MLFLOW_TRACKING_URI.")
    ] = None,
) -> None:
    """Write the tables, curves and the page of a run, finished or not, from its folder or from MLflow.

    Example: aiqn report runs/quickstart
    """
    with plain_errors():
        from reports.html import write_report

        if len(sources) == 1:
            print(write_report(sources[0], named_folder(to), uri))
            return
        from reports.several import write_several

        print(write_several(sources, named_folder(to) or Path("report-several")))


@app.command()
def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every five seconds, until the end.")] = False,
) -> None:
    """Say where a run stands: trials by state for each arm, best so far, failures by cause, tracking lag.

    Example: aiqn status runs/quickstart --watch
    """
    with plain_errors(), suppress(KeyboardInterrupt):
        from orchestrator.overview import overview_lines
        from orchestrator.status import looks, status_facts, status_lines

        for _ in looks(run) if watch else (None,):
            if as_json:
                print(json.dumps(status_facts(run)), flush=True)
                continue
            if watch and sys.stdout.isatty():
                print("\x1b[H\x1b[2J", end="")  # the screen is cleared
            print("\n".join(overview_lines(run) or status_lines(run)), flush=True)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file.")],
    to: Annotated[Target, typer.Option(help="The kind of cluster.")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where the cluster keeps run folders.")] = Path("runs"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as cluster.nodes=4.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start also where the plan is above the budget.")] = False,
) -> None:
    """Run a sweep on a cluster: through Ray's Job API, Slurm, or KubeRay. Submitting again continues it.

    Example: aiqn submit sweeps/cifar10-paper.yaml --to slurm --runs /shared/runs --set cluster.nodes=4
    """
    with plain_errors():
        from orchestrator.submit.job import Job
        from orchestrator.submit.targets import render
        from orchestrator.submit.targets import submit as send
        from orchestrator.sweep import load_sweep

        loaded = load_sweep(file, set_ or (), check_data=False)
        job = Job(loaded, runs.absolute(), tuple(set_ or ()), yes)
        if dry_run:
            print(render(job, to), end="")
            return
        code = send(job, to, lambda line: print(line, flush=True))
        raise typer.Exit(code)


@app.command()
def stop(
    run: RunArgument,
    trial: Annotated[
        str | None,
        typer.Argument(metavar="[TRIAL]", help="Only this one, as cnn-search-3.", autocompletion=trials_of_run),
    ] = None,
) -> None:
    """Stop a running sweep, or one of its trials, after the current evaluation; to continue, run the sweep again.

    Example: aiqn stop runs/quickstart
    """
    with plain_errors():
        from orchestrator.control import ask_to_stop
        from orchestrator.runs import RunFolder
        from orchestrator.submit.targets import cancel

        waiting = trial is None and RunFolder(run).owner() is None
        print((cancel(RunFolder(run)) if waiting else None) or ask_to_stop(run, trial))


@app.command()
def retry(
    run: RunArgument,
    trials: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TRIAL ...]", help="Only these, as cnn-search-3.", autocompletion=trials_of_run),
    ] = None,
    cause: Annotated[
        str | None, typer.Option(metavar="CAUSE", help="Only those that ended of it, as `aiqn status` names it.")
    ] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Those parked at a rung instead, to their end.")] = False,
    arm: Annotated[
        str | None, typer.Option(metavar="ARM", help="All of this arm from its first trial on; what it has goes aside.")
    ] = None,
) -> None:
    """Hand out again what failed, once its reason is mended: same numbers, parameters and folders, with the next start.

    Example: aiqn retry runs/quickstart --cause KeyError
    """
    with plain_errors():
        from orchestrator.aside import start_anew
        from orchestrator.retry import retry as hand_out

        if arm is not None and (trials or cause or parked):
            raise RequestError("--arm: starts all of an arm anew; leave trials, --cause and --parked out")
        if arm is not None:
            print("\n".join(start_anew(run, arm)))
            return
        print("\n".join(hand_out(run, trials or (), cause, parked=parked)))


@app.command()
def ui(
    run: RunArgument,
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on a run's own store.

    Example: aiqn ui runs/quickstart
    """
    with plain_errors():
        from orchestrator.tracking.server import serve

        serve(run, host, port)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="RUN|RUNS", help="A run folder, or a folder of them.")],
    port: Annotated[int, typer.Option(help="The port to listen on, on this machine alone.")] = 5001,
) -> None:
    """Serve the page of a running sweep as it grows, or an index of all sweeps in a folder.

    Example: aiqn watch runs/quickstart
    """
    with plain_errors():
        from reports.watching import watch as serve_pages

        serve_pages(folder, port)


@app.command()
def replay(
    run: RunArgument,
    pruner: Annotated[
        list[str] | None, typer.Option(metavar="PRUNER", help="A name, or {name: asha, min_resource: 200}; several.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at once.")] = 2,
    searches: Annotated[
        int, typer.Option(min=0, help="Draw so many searches for Optuna's pruners too: as long as so many replays.")
    ] = 0,
) -> None:
    """Say what other pruners would have cost and lost in a recorded search, and propose one; nothing is trained.

    Example: aiqn replay runs/quickstart --pruner asha --pruner median
    """
    with plain_errors():
        from orchestrator.proposal import proposal_line, propose
        from orchestrator.replay import PRUNERS, parse_pruner, replay_lines
        from orchestrator.replay import replay as replayed

        settings = [parse_pruner(text) for text in pruner or PRUNERS]
        print("\n".join(replay_lines(replayed(run, settings, workers, searches))))
        print(proposal_line(propose(run)))


@data_app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="cifar10, cifar100, mnist, fashion-mnist, imagenet32, imagenet64, celeba, or a name of your own.",
        ),
    ],
    source: Annotated[Path, typer.Option("--from", metavar="PATH", help="The file, the folder or the archive.")],
    to: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where to; else $AIQN_DATA/NAME or ~/.cache/aiqn/data/NAME.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Crop and resize your own images to this square.")] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=3, help="1 or 3 for your own images; else 1 where none has a colour.")
    ] = None,
    unverified: Annotated[bool, typer.Option(help="Take another checksum or number of images than published.")] = False,
    force: Annotated[bool, typer.Option(help="Replace what was prepared before.")] = False,
) -> None:
    """Turn images on your disk into the arrays that trainers read.

    A published data set is read as it is published. Images of your own are image files (a folder for each class, below
    train/ and test/ if you like), Parquet files with a column of images, arrays (.npy, .npz) or IDX files: one of them,
    a folder, or an archive (.zip, .tar, .tar.gz, .tgz).

    Example: aiqn data prepare cifar10 --from cifar-10-binary.tar.gz
    """
    with plain_errors():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from aiqn_core import prepare as preparing
        from aiqn_core.prepared import prepared_folder, read_about

        folder = named_folder(to)
        kept = not force and prepared_folder(name, folder).exists()
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} images"))
        shown = (*columns, TimeElapsedColumn())
        with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"{name}: checking", total=None)
            folder = preparing.prepare(
                name,
                source,
                folder,
                size=size,
                channels=channels,
                unverified=unverified,
                force=force,
                progress=lambda step, done, total: bar.update(
                    task, description=f"{name}: {step}", completed=done, total=total
                ),
            )
        about = read_about(folder)
        train, test = about["shapes"]["train"], about["shapes"]["test"]
        print(f"{name}: {train[0]} training and {test[0]} test images of {train[1]} x {train[2]} x {train[3]}")
        print(f"in {folder}, checksum {about['checksum']}")
        for note in (*about.get("notes", []), *preparing.few(test[0])):
            print(note)
        if about.get("verified"):
            print(f"As published, by checksum: {', '.join(about['verified'])}")
        if kept:
            print(f"It was prepared already, from {about.get('source')}; --force replaces it.")


@data_app.command(name="list")
def list_(name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None) -> None:
    """List the prepared data with their classes by number.

    Example: aiqn data list fashion-mnist
    """
    with plain_errors():
        from aiqn_core.prepared import PreparedError, prepared_folder, read_about

        home = prepared_folder("any").parent
        names = [name] if name else sorted(path.parent.name for path in home.glob("[!.]*/dataset.json"))
        if not names:
            print(f"No prepared data in {home}.")
        for one in names:
            try:
                about = read_about(prepared_folder(one))
            except PreparedError as error:
                raise RequestError(str(error)) from None
            train, test = about["shapes"]["train"], about["shapes"]["test"]
            print(f"{one}: {train[0]} training and {test[0]} test images of {train[1]} x {train[2]} x {train[3]}")
            for number, class_ in enumerate(about.get("classes") or ()):
                print(f"  {number}  {class_}")


def named_folder(to: str | None) -> Path | None:
    """The folder of a `--to`, or None without one; an empty one, as of a variable that is not set, is refused."""
    if to is None:
        return None
    if not to.strip():
        raise RequestError("--to: saw nothing, expected a folder")
    return folder_to_write(Path(to).expanduser())


def calibrated(loaded: "Sweep") -> "tuple[dict[str, Rates], str]":
    """Rates measured on this machine, and words for where they come from."""
    from datetime import datetime

    from orchestrator.calibration import SECONDS, calibrate

    print(f"calibrating for about {SECONDS:.0f} s", file=sys.stderr)
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return calibrate(loaded), f"a calibration of {SECONDS:.0f} s on this machine, {now}"


def within_budget(loaded: "Sweep", runs: Path, yes: bool) -> None:
    """Ask before a sweep starts whose plan is above its budget; exit where nobody can be asked."""
    from aiqn_core.config import ConfigError
    from orchestrator import plan as planning
    from orchestrator.runs import RunFolder

    run = RunFolder(runs / loaded.name)
    if yes or (loaded.budget.gpu_hours is None and loaded.budget.hours is None) or any(run.trials.glob("*")):
        return
    rates, basis = planning.stored_rates(run, loaded)
    if rates is None:
        try:
            rates, basis = calibrated(loaded)
        except ConfigError as error:  # the machine that starts a sweep need not be one that trains
            print(f"{error}\nThe plan is not known; the sweep stops where its budget is spent.", file=sys.stderr)
            return
    made = planning.make_plan(loaded, rates, basis)
    planning.store_plan(run, made, rates)
    if not (above := planning.over_budget(made, loaded)):
        return
    print("\n".join([*planning.plan_lines(made), *above]), file=sys.stderr)
    if not sys.stdin.isatty():
        print("Nothing was started. Make the sweep smaller, raise the budget, or add --yes.", file=sys.stderr)
        raise typer.Exit(WRONG_INPUT)
    typer.confirm("Start anyway?", abort=True, err=True)


def continued_by(loaded: "Sweep", runs: Path) -> str:
    """What a start would go on with, and where MLflow is; "" for nothing, RunFolderError where it would be refused."""
    from orchestrator.continuing import check_continues, continuation
    from orchestrator.runs import RunFolder
    from orchestrator.stores import choose, note

    run = RunFolder(runs / loaded.name)
    before = check_continues(run, loaded).before
    said = (continuation(run, before, loaded), note(choose(loaded.tracking.uri, before, os.environ), os.environ))
    return "\n".join(filter(None, said))


def describe(loaded: "Sweep", runs: Path, continued: str) -> None:
    """Print what a sweep would run, and what of it is there already."""
    print(f"{loaded.name}: {loaded.question}")
    print(f"run folder  {runs / loaded.name}")
    for arm in loaded.arms.values():
        steps = arm.base["train"]["steps"]
        print(f"{arm.name}  {loaded.search.trials} search trials of {steps} steps", end="")
        if loaded.final is not None:
            finals = loaded.final.top * len(loaded.final.seeds)
            print(f", then {finals} finals of {loaded.final.steps} steps", end="")
        print()
    if continued:
        print(continued)
    print_notes(loaded)
    print("Nothing was run (--dry-run).")


def print_notes(loaded: "Sweep") -> None:
    """Print what of a search has no effect, or not the one that its name says."""
    from orchestrator.notes import notes

    for note in notes(loaded):
        print(note)


def conclude(folder: Path) -> NoReturn:
    """Print the answer and where the page is; exit with what became of the sweep."""
    from orchestrator.runs import RunFolder, load_runs

    finished, failed = RunFolder(folder).read_sweep()["finished"], load_runs(folder, State.FAILED)
    with suppress(OSError):  # whoever looked has gone
        print_end(folder, failed if finished else [])
    if not finished:
        with suppress(OSError):
            print("Stopped before the end; run the same command again to continue.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(TRIALS_FAILED if failed else DONE)


def print_end(folder: Path, failed: "list[Run]") -> None:
    """The answer, the page, the store, and which trials failed."""
    from orchestrator import shapes
    from orchestrator.runs import RunFolder, read_json
    from orchestrator.status import log_of
    from orchestrator.stores import kept

    answer = folder / "report" / "answer.txt"
    if answer.exists():
        print(f"\n{answer.read_text()}")
    print(f"report  {folder / 'report' / 'index.html'}")
    store = kept(RunFolder(folder).read_sweep())
    print(f"MLflow  {store.uri if store.served else f'aiqn ui {folder}'}")
    mirror = read_json(RunFolder(folder).mirror, shapes.MIRROR) or {}
    if mirror.get("error"):
        print(f"MLflow is behind ({mirror['error']}); run the same command again to catch up.", file=sys.stderr)
    for run in failed:
        print(f"{run.id} failed: {run.cause}: {run.status.get('message')}  log: {log_of(run)}", file=sys.stderr)
    if failed:
        print(f"Once the reason is mended, `aiqn retry {folder}` hands them out again.", file=sys.stderr)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
