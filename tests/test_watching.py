"""The page of a running sweep: served to this machine alone, nothing outside the report, nothing written in the run."""

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from run_folders import build_run_folder

from orchestrator.runs import RunFolderError
from reports.watching import application


class Answer(NamedTuple):
    status: int
    text: str


def ask(app: Any, path: str, method: str = "GET", **headers: str) -> Answer:
    """One request to an ASGI application, as its server would hand it over: the path is decoded."""
    sent: list[dict[str, Any]] = []
    given = {"host": "localhost:5001", **headers}
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http", "root_path": ""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return Answer(sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]).decode())


def test_pages_are_served_and_nothing_else(tmp_path: Path) -> None:
    folder = build_run_folder(tmp_path / "runs" / "quickstart")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "secret").write_text("secret")
    before = sorted(folder.path.rglob("*"))
    app = application(tmp_path / "runs", tmp_path / "scratch")
    assert '<a href="/quickstart/">quickstart: finished, 16/16' in ask(app, "/").text
    page = ask(app, "/quickstart/")
    assert page.status == 200
    assert '<script src="/watch.js"></script>' in page.text
    assert "connect-src 'self'" in page.text
    live = json.loads(ask(app, "/quickstart/live").text)
    assert live["version"] == 1
    assert {one["trial"] for one in live["failed"]} == {"pixelcnn-search-3", "pixeliqn-search-1"}
    assert live["failed"][0]["log"] == "started\n"
    assert ask(app, "/quickstart/trials.csv").text.startswith("trial,")
    for path in ("/quickstart/../secret", "/quickstart//etc/passwd", "/other/", "/quickstart/trials"):
        assert ask(app, path).status == 404
    assert ask(app, "/quickstart/", method="POST").status == 405
    assert ask(app, "/quickstart/", host="evil.example").status == 400
    assert ask(app, "/quickstart/live", origin="http://evil.example").status == 403
    assert sorted(folder.path.rglob("*")) == before


def test_where_there_is_no_sweep_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="saw no sweep there"):
        application(tmp_path, tmp_path)
