"""The page of a running sweep as it grows, served on this machine alone; and an index of all sweeps of a folder.

Nothing is written into a run folder: pages lie in a folder of their own that goes with the command.
"""

import html
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.causes import State
from orchestrator.overview import overview_line, run_folders
from orchestrator.runs import RunFolder, RunFolderError, load_runs
from orchestrator.status import log_of
from orchestrator.watch import Watch, signature
from reports.html import write_page
from reports.results import read_results

PAUSE = 10.0  # seconds from the end of one look at a run folder to the next
TAIL = 4000  # bytes of a log that are shown
SHOWN = 6  # failures, and running trials with their logs
HOSTS = ("127.0.0.1", "localhost")


class Watched:
    """One sweep: its page, made again when its files have changed while somebody looks."""

    def __init__(self, run: RunFolder, folder: Path) -> None:
        self.run, self.folder, self.lock = run, folder, threading.Lock()
        self.seen: Any = None
        self.looked = 0.0
        self.version = 0

    def page(self) -> Path:
        """The newest page; made here and now where there is none, or where the run has changed since."""
        with self.lock:
            if not self.version or time.monotonic() - self.looked > PAUSE:
                now = (signature(self.run.sweep_json), Watch(self.run).signatures())
                if now != self.seen:
                    write_page(read_results(self.run.path), self.folder)
                    self.seen, self.version = now, self.version + 1
                self.looked = time.monotonic()
        return self.folder / "index.html"

    def live(self) -> dict[str, Any]:
        """What runs where, what failed and the ends of their logs, as of this moment."""
        runs = load_runs(self.run.path)
        running = [run for run in runs if run.state == State.RUNNING]
        failed = sorted(
            (run for run in runs if run.state in (State.FAILED, State.DIVERGED)),
            key=lambda run: run.status.get("updated") or 0,
        )
        last = sorted((run for run in runs if run.status.get("updated")), key=lambda run: run.status["updated"])
        return {
            "line": overview_line(self.run, runs),
            "version": self.version,
            "running": [
                {
                    "trial": run.id,
                    "host": run.status.get("host") or "",
                    "step": run.status.get("step") or (run.history[-1]["step"] if run.history else 0),
                    "steps": run.status.get("steps") or 0,
                    "log": tail(log_of(run)),
                }
                for run in running[:SHOWN]
            ],
            "events": [f"{run.id} {run.state}" + (f" ({run.cause})" if run.cause else "") for run in last[-SHOWN:]],
            "failed": [
                {"trial": run.id, "why": f"{run.cause}: {run.status.get('message')}", "log": tail(log_of(run))}
                for run in failed[-SHOWN:]
            ],
        }


def tail(path: Path) -> str:
    """The end of a log; "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def application(folder: Path, scratch: Path) -> Any:
    """The pages of a run folder, or of all run folders in a folder, as an ASGI application; raises RunFolderError."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    runs = [RunFolder(folder)] if RunFolder(folder).sweep_json.exists() else run_folders(folder)
    if not runs:
        raise RunFolderError(f"{folder}: saw no sweep there, expected a run folder, or a folder of them such as runs")
    known = {run.path.resolve().name: Watched(run, scratch / str(i)) for i, run in enumerate(runs)}

    def watched(request: Request) -> Watched:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers.get('host')}":
            raise HTTPException(403)  # a page of somebody else asks
        if request.path_params.get("name") not in known:
            raise HTTPException(404)
        return known[request.path_params["name"]]

    def index(_: Request) -> Response:
        rows = "".join(
            f'<li><a href="/{html.escape(name)}/">{html.escape(overview_line(one.run))}</a></li>'
            for name, one in known.items()
        )
        return HTMLResponse(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>sweeps</title><ul>{rows}</ul></html>'
        )

    def page(request: Request) -> Response:
        try:
            text = watched(request).page().read_text(encoding="utf-8")
        except RunFolderError as error:
            return HTMLResponse(html.escape(str(error)), status_code=503)
        text = text.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)
        text = text.replace("script-src 'sha256", "script-src 'self' 'sha256", 1)
        return HTMLResponse(text.replace("</body>", '<script src="/watch.js"></script>\n</body>'))

    def live(request: Request) -> Response:
        one = watched(request)
        try:
            one.page()
            return JSONResponse(one.live())
        except RunFolderError as error:
            return JSONResponse({"line": str(error), "version": one.version, "running": [], "events": [], "failed": []})

    def file(request: Request) -> Response:
        root = watched(request).folder.resolve()
        path = (root / request.path_params["path"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path)

    def script(_: Request) -> Response:
        return FileResponse(Path(__file__).parent / "watch.js", media_type="text/javascript")

    routes = [Route("/", index), Route("/watch.js", script), Route("/{name}/", page), Route("/{name}/live", live)]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))
    return Starlette(routes=[*routes, Route("/{name}/{path:path}", file)], middleware=[hosts])


def watch(folder: Path, port: int) -> None:
    """Serve until interrupted; nothing is left behind."""
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="aiqn-watch-") as scratch:
        made = application(folder, Path(scratch))
        print(f"http://127.0.0.1:{port}/  (Ctrl-C ends it)", flush=True)
        uvicorn.run(made, host="127.0.0.1", port=port, log_level="warning")
