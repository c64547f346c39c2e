"""How a command ends: its exit code, and plain lines for what the user did wrong."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

DONE, TRIALS_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 3


class RequestError(Exception):
    """What was asked for cannot be done: what was seen, what is valid, what to do."""


def file_to_write(to: Path | None, usual: str) -> Path:
    """The file that `--to` names, or the usual one in this folder; known before hours are spent on what goes into it.

    Raises RequestError where it is a folder, or lies in one that cannot be written.
    """
    path = Path(usual) if to is None else to
    if not path.name or path.is_dir():
        raise RequestError(f"--to: saw {str(path)!r}, a folder; expected a file, for example {path / usual}")
    folder_to_write(path.parent)
    return path


def folder_to_write(folder: Path) -> Path:
    """A folder that is there or can be made; raises RequestError where it is a file or cannot be written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise RequestError(f"--to: saw {str(folder)!r}, but {there} is a file; expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"--to: saw {str(folder)!r}, but {there} cannot be written; choose another folder")
    return folder


class SweepFailedError(Exception):
    """A sweep that stopped because its trials fail, all in one way."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the user did wrong is one or more plain lines and exit code 2; a traceback is a bug."""
    from orchestrator.runs import RunFolderError, StorageError

    try:
        yield
    except StorageError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except SweepFailedError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(TRIALS_FAILED) from None
    except (RequestError, RunFolderError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        if error.filename is None:  # no file of the user's: a bug, or a network that he is told of elsewhere
            raise
        print(f"{error.filename}: {error.strerror}; have it made accessible, or use another", file=sys.stderr)
    except Exception as error:
        from aiqn_core.config import ConfigError
        from aiqn_core.prepare import PrepareError
        from orchestrator.document import SweepError
        from orchestrator.submit.job import JobError

        if not isinstance(error, ConfigError | JobError | PrepareError | SweepError):
            raise
        print(error, file=sys.stderr)
    else:
        return
    raise typer.Exit(WRONG_INPUT)
