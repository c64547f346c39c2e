"""The commands of a single trial: train one, sample from it, complete images with it, score it or any images."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.outcome import INTERRUPTED, TRIALS_FAILED, RequestError, file_to_write, plain_errors
from orchestrator.words import trials_that_begin

trial_app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)

TrialArgument = Annotated[
    Path,
    typer.Argument(
        metavar="TRIAL",
        help="A trial's folder, for example runs/quickstart/trials/pixeliqn-final-0.",
        autocompletion=trials_that_begin,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of tau: the same seed gives the same picture.")]
To = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; else the trial's name in this folder.")]


@trial_app.command()
def train(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG|TRIAL|SWEEP",
            help="A YAML file (model, data, optimizer, train, ...), a trial's folder or its config.json, a sweep file.",
            autocompletion=trials_that_begin,
        ),
    ],
    arm: Annotated[
        str | None, typer.Option(metavar="ARM", help="Of a sweep file: the configuration that this arm starts from.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as train.steps=50000.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the run folder; else of the file, the trial, the arm.")
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where run folders are kept.")] = Path("runs"),
) -> None:
    """Train one model, or continue: to resume, run the same command again.

    The start is a file of its own, the configuration of a trial (trained from its first step), or an arm of a sweep.

    Example: aiqn train runs/quickstart/trials/pixeliqn-search-4 --set train.steps=50000
    """
    with plain_errors():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from orchestrator.single import train_one
        from orchestrator.trial import DataMissingError

        folder, config, records = train_one(file, runs, set_ or (), arm, name)
        objective = config.metrics[0].name
        print(f"trial   {folder.path}")
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
                task = bar.add_task("training", total=config.train.steps)
                for record in records:
                    shown = ", ".join(f"{key} {record[key]:.4g}" for key in ("loss", objective) if key in record)
                    bar.update(task, completed=record["step"], description=shown)
                    if objective in record:
                        print(f"step {record['step']:,}: {shown}")
        except KeyboardInterrupt:
            print("Stopped; run the same command again to continue from the last evaluation.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except DataMissingError as error:
            raise RequestError(str(error)) from None
        except RuntimeError as error:
            if type(error).__name__ != "CommandError":  # which is torch's to import
                raise
            print(f"{folder.path.name} failed: {error}  log: {folder.log}", file=sys.stderr)
            raise typer.Exit(TRIALS_FAILED) from None
        except ArithmeticError as error:  # the loss is no longer finite: recorded as the trial's end
            print(f"{folder.path.name} diverged: {error}  log: {folder.log}", file=sys.stderr)
            raise typer.Exit(TRIALS_FAILED) from None
        print(f"samples {folder.samples(config.train.steps)}\nreport  aiqn report {folder.path.parent.parent}")


@trial_app.command()
def sample(
    trial: TrialArgument,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 64,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="CLASS", help="Of this class, by name or number; else in the data's proportions."
        ),
    ] = None,
    seed: Seed = 0,
    same_tau: Annotated[
        bool, typer.Option("--same-tau", help="Few samples at each kept step, side by side: watch them form.")
    ] = False,
    to: To = None,
) -> None:
    """Draw samples of a trained model: a PNG to look at, and an array (.npy) beside it.

    Example: aiqn sample runs/quickstart/trials/pixeliqn-final-0 --count 64
    """
    with plain_errors():
        from orchestrator import look

        to = file_to_write(to, f"{trial.resolve().name}-samples.png")
        label = None if class_ is None else look.class_number(trial, class_)
        if same_tau:
            files, steps = look.write_same_tau(trial, to, count=min(count, 8), label=label, seed=seed)
            print(f"columns: step {', '.join(f'{step:,}' for step in steps)}")
        else:
            files = look.write_samples(trial, to, count=count, label=label, seed=seed)
        print("\n".join(map(str, files)))


@trial_app.command()
def inpaint(
    trial: TrialArgument,
    mask: Annotated[
        str, typer.Option(metavar="MASK", help="What is given: top, bottom, left, right, or a PNG, white to be filled.")
    ] = "top",
    images: Annotated[int, typer.Option(min=1, help="How many held-out images.")] = 6,
    completions: Annotated[int, typer.Option(min=2, help="How many for each, with different tau.")] = 6,
    seed: Seed = 0,
    to: To = None,
) -> None:
    """Complete held-out images: what is given at the left, completions, the original at the right.

    Pixels are filled in from the top left; a given pixel is seen only by those after it.

    Example: aiqn inpaint runs/quickstart/trials/pixeliqn-final-0 --mask top
    """
    with plain_errors():
        from orchestrator import look

        to = file_to_write(to, f"{trial.resolve().name}-inpainted.png")
        file, made = look.write_completions(trial, to, count=images, completions=completions, mask=mask, seed=seed)
        against = f"; two originals are {made.variety:.1f} apart there" if images > 1 else ""
        print(f"diversity: two completions are {made.diversity:.1f} levels apart for each free sub-pixel{against}")
        print(file)


@trial_app.command()
def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="TRIAL|IMAGES", help="A trial, or images: any form of your own that data prepare reads."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="DATASET|IMAGES", help="The real images; a trial has its own data.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="How many; else all, or as many as the trial's own.")] = None,
    features: Annotated[str | None, typer.Option(help="lite0 or inception.")] = None,
    inception: Annotated[str | None, typer.Option(metavar="FILE", help="Inception's weights.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images that lite0 sees, in pixels.")] = None,
    reference: Annotated[int | None, typer.Option(help="How many real images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score samples by the code that scores trainings, and say how that was done.

    Example: aiqn evaluate samples.npy --against cifar10 --features inception
    """
    with plain_errors():
        from aiqn_core.outside import SamplesError, evaluate_files, evaluate_trial, is_trial, scored_lines
        from aiqn_core.training import CheckpointError

        given = {"samples": samples, "features": features, "inception": inception, "size": size, "reference": reference}
        settings = {key: value for key, value in given.items() if value is not None}
        try:
            if is_trial(source):
                scored = evaluate_trial(source, against, **settings)
            else:
                scored = evaluate_files(source, against, **settings)
        except (SamplesError, CheckpointError, ArithmeticError) as error:
            raise RequestError(str(error)) from None
        print(json.dumps(scored._asdict()) if as_json else "\n".join(scored_lines(scored)))


@trial_app.command()
def logs(
    trial: TrialArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until the trial has ended.")
    ] = False,
) -> None:
    """Print the log of a trial.

    Example: aiqn logs runs/quickstart/trials/pixeliqn-search-4 --follow
    """
    with plain_errors(), suppress(KeyboardInterrupt, BrokenPipeError):
        from orchestrator.trial_lines import log_text

        for text in log_text(trial, follow=follow):
            print(text, end="", flush=True)


@trial_app.command()
def diff(first: TrialArgument, second: TrialArgument) -> None:
    """Compare two trials: the settings that differ, then their last scores side by side.

    Example: aiqn diff runs/quickstart/trials/pixeliqn-search-4 runs/quickstart/trials/pixeliqn-search-2
    """
    with plain_errors():
        from orchestrator.trial_lines import diff_lines

        print("\n".join(diff_lines(first, second)))
