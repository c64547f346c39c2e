"""How a command ends: its exit code, and plain lines for what the user did wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

DONE, TRIALS_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 3


class RequestError(Exception):
    """What was asked for cannot be done: what was seen, what is valid, what to do."""


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
    except PermissionError as error:
        print(f"{error.filename}: {error.strerror}; have it made accessible, or use another", file=sys.stderr)
    except Exception as error:
        from aiqn_core.config import ConfigError
        from aiqn_core.prepare import PrepareError
        from orchestrator.document import SweepError
        from orchestrator.jobs import JobError

        if not isinstance(error, ConfigError | JobError | PrepareError | SweepError):
            raise
        print(error, file=sys.stderr)
    else:
        return
    raise typer.Exit(WRONG_INPUT)
