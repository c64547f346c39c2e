"""Optuna's samplers and pruners by name, with Optuna's own argument names."""

import functools
import importlib.util
import inspect
import random
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from optuna import pruners, samplers
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from aiqn_core.config import ConfigError, Problem, join, nearest, one_of
from orchestrator.promotion import NAME as PROMOTE
from orchestrator.promotion import Settings
from orchestrator.sequences import AtRandom, EveryCombination, QuasiRandom
from orchestrator.space import Space
from orchestrator.views import Listening

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "random": AtRandom,
    "grid": EveryCombination,
    "qmc": QuasiRandom,
    "tpe": samplers.TPESampler,
    "gp": samplers.GPSampler,
    "cmaes": samplers.CmaEsSampler,
    "nsga2": samplers.NSGAIISampler,
    "nsga3": samplers.NSGAIIISampler,
}


class Promote(pruners.NopPruner):
    """Stops nothing: the ledger parks trials at its rungs (`orchestrator.promotion`)."""

    __signature__ = inspect.signature(Settings)  # which arguments a file can give it

    def __init__(self, **arguments: Any) -> None:
        Settings(**arguments)  # raises ValueError for values that make no rungs


PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "none": pruners.NopPruner,
    PROMOTE: Promote,
    "median": pruners.MedianPruner,
    "percentile": pruners.PercentilePruner,
    "asha": pruners.SuccessiveHalvingPruner,
    "successive_halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
    "patient": pruners.PatientPruner,
    "threshold": pruners.ThresholdPruner,
    "wilcoxon": pruners.WilcoxonPruner,
}
PACKAGES = {"qmc": "scipy", "gp": "scipy", "cmaes": "cmaes", "wilcoxon": "scipy"}  # that Optuna imports when used
VIEWING = ("gp", "cmaes", "nsga2", "nsga3")  # learn from trials that complete only, and from all branches at once
SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def make_sampler(settings: Mapping[str, Any], seed: int, space: Space, number: int = 0) -> BaseSampler:
    """The sampler of `{name: ..., argument: ...}` for trial `number`; raises ConfigError with every problem.

    Those of `sequences` propose by the number of the trial that asks. Optuna's own need a seed for each: after a
    restart, one with the seed of the first start would draw the same random numbers and propose the same trials again.
    """
    _raise(sampler_problems(settings))
    name, arguments = _split(settings)
    if name == "grid":
        return EveryCombination(space)
    if name in ("random", "qmc"):
        return _quietly(SAMPLERS[name], **arguments, space=space, seed=seed)
    mixed = random.Random(f"{seed}/{number}").getrandbits(31) if number else seed  # noqa: S311
    if name not in VIEWING:
        return _quietly(SAMPLERS[name], **arguments, seed=mixed)
    more = {"independent_sampler": samplers.TPESampler(seed=mixed)} if name == "cmaes" else {}  # for what is no range
    make = functools.partial(_quietly, SAMPLERS[name], **arguments, **more, seed=mixed)
    return Listening(make, space, mixed, by_rank=name != "gp")


def argument(settings: Mapping[str, Any], key: str) -> Any:
    """An argument of a sampler or pruner: as its settings say, or else as Optuna has it."""
    known = SAMPLERS | PRUNERS
    return settings[key] if key in settings else inspect.signature(known[settings["name"]]).parameters[key].default


def arrivals(study: Study, trial: FrozenTrial) -> int:
    """How many trials have come to the last step of `trial`, itself included: those it is compared with there.

    Optuna's successive halving stops the second trial that arrives at a rung for being worse than the first alone.
    """
    step, peers = trial.last_step, study
    if isinstance(study.pruner, HyperbandPruner):  # rivals are those of its bracket
        peers = study.pruner._create_bracket_study(study, study.pruner._get_bracket_id(study, trial))
    others = (other for other in peers.get_trials(deepcopy=False) if other.number != trial.number)
    return sum(step in other.intermediate_values for other in others) + 1


def is_pruned(trial: Trial, fewest: int) -> bool:
    """Whether a trial is to stop at the step it reported last: so its pruner, and enough others have come there."""
    study = trial.study
    return trial.should_prune() and arrivals(study, study._storage.get_trial(trial._trial_id)) >= fewest


def make_pruner(settings: Mapping[str, Any], direction: str) -> BasePruner:
    """The Optuna pruner of `{name: ..., argument: ...}`; raises ConfigError with every problem."""
    _raise(pruner_problems(settings, direction))
    name, arguments = _split(settings)
    if name == "patient":
        wrapped = arguments.pop("wrapped_pruner", None)
        arguments["wrapped_pruner"] = None if wrapped is None else make_pruner(_named(wrapped), direction)
    return _quietly(PRUNERS[name], **arguments)


def sampler_problems(settings: Mapping[str, Any], path: str = "search.sampler") -> list[Problem]:
    """What is wrong with the settings of a sampler."""
    if "seed" in settings:
        return [Problem(join(path, "seed"), f"saw {settings['seed']!r}, expected it as search.seed")]
    return _problems(settings, path, SAMPLERS)


def pruner_problems(settings: Mapping[str, Any], direction: str, path: str = "search.pruner") -> list[Problem]:
    """What is wrong with the settings of a pruner for a study of this direction."""
    wrapped = settings.get("wrapped_pruner") if settings.get("name") == "patient" else None
    problems = _problems(settings, path, PRUNERS)
    if wrapped is not None:
        inner = join(path, "wrapped_pruner")
        if not isinstance(wrapped, (str, Mapping)):
            problems.append(Problem(inner, f"saw {wrapped!r}, expected the name of a pruner, or a mapping with name"))
        else:
            problems.extend(pruner_problems(_named(wrapped), direction, inner))
    bounds = [key for key in ("lower", "upper") if settings.get(key) is not None]
    good_side = "lower" if direction == "minimize" else "upper"
    if settings.get("name") == "threshold" and bounds == [good_side] and not problems:
        other = "upper" if good_side == "lower" else "lower"
        message = f"saw {settings[good_side]!r}, which stops the best trials when we {direction}; expected {other}"
        problems.append(Problem(join(path, good_side), message))
    return problems


def _problems(settings: Mapping[str, Any], path: str, known: Mapping[str, Callable[..., Any]]) -> list[Problem]:
    name, arguments = _split(settings)
    if "name" not in settings:
        return [Problem(join(path, "name"), f"missing; valid: {', '.join(known)}")]
    if not isinstance(name, str) or name not in known:
        return [Problem(join(path, "name"), one_of(name, known))]
    package = PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        message = f"saw {name!r}, which needs the package {package}; pip install {package}, or choose another"
        return [Problem(join(path, "name"), message)]
    valid = _parameters(known[name])
    problems = [
        Problem(join(path, key), _argument_problem(name, key, value, valid))
        for key, value in arguments.items()
        if key not in valid or not _fits(value, valid[key])
    ]
    missing = [key for key, p in valid.items() if p.default is p.empty and key not in arguments]
    missing = [key for key in missing if key != "wrapped_pruner"]
    problems += [Problem(join(path, key), f"missing; {name} needs {_kind(valid[key])}") for key in missing]
    return problems or _construction_problems(known[name], name, arguments, path)


def _construction_problems(make: Callable[..., Any], name: str, arguments: dict[str, Any], path: str) -> list[Problem]:
    if name == "grid":
        return []  # built from the space, which is checked where it is known
    if name == "patient":
        arguments = {**arguments, "wrapped_pruner": None}
    try:
        _quietly(make, **arguments)
    except (ValueError, TypeError, OverflowError) as error:
        shown = ", ".join(f"{key}: {value!r}" for key, value in arguments.items())
        return [Problem(path, f"saw {name} with {shown or 'no arguments'}; {_who(make)}{' '.join(str(error).split())}")]
    return []


def _who(make: Callable[..., Any]) -> str:
    return "Optuna says: " if make.__module__.startswith("optuna.") else ""


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments a file can hold: those that are numbers, words or booleans."""
    if make is EveryCombination:
        return {}
    parameters = inspect.signature(make).parameters
    plain = {*SCALARS, "None"}
    return {
        key: parameter
        for key, parameter in parameters.items()
        if key == "wrapped_pruner" or (key != "seed" and _words(parameter) and _words(parameter) <= plain)
    }


def _words(parameter: inspect.Parameter) -> set[str]:
    annotation = parameter.annotation
    if annotation is parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
        return set()
    written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return set(re.findall(r"[\w.\[\]]+", written))


def _fits(value: Any, parameter: inspect.Parameter) -> bool:
    if parameter.name == "wrapped_pruner":
        return True  # a pruner of its own, checked as one
    words = _words(parameter)
    return ("None" in words and value is None) or any(type(value) in SCALARS[word] for word in words - {"None"})


def _kind(parameter: inspect.Parameter) -> str:
    names = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a word", "None": "null"}
    return " or ".join(text for word, text in names.items() if word in _words(parameter))


def _argument_problem(name: str, key: str, value: Any, valid: dict[str, inspect.Parameter]) -> str:
    if key in valid:
        return f"saw {value!r}, expected {_kind(valid[key])}"
    return f"saw {value!r}, but {name} has no such argument; " + (nearest(key, list(valid)) if valid else "it has none")


def _named(settings: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": settings} if isinstance(settings, str) else settings


def _split(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return settings.get("name", ""), {key: value for key, value in settings.items() if key != "name"}


def _quietly(make: Callable[..., Any], **arguments: Any) -> Any:
    with warnings.catch_warnings():  # that an argument is experimental is known to who writes it in a file
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make(**arguments)


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError(problems)
