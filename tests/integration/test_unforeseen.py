"""What nobody foresaw is answered by a problem, and logged by type and place: its message may quote sample IDs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

SECRET = "patient-0042"
# The app as `unlearn api` runs it, with four routes that fail, each in its own way, quoting an ID.
SCRIPT = f"""
import sys
from pathlib import Path
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from service import cli, logs, migrate
from service import app as assembled
from service.settings import Settings

class Out(BaseModel):
    number: int

def planted(settings):
    app = create_app(settings)
    @app.get("/fails/{{name}}")
    def fails(name: str):
        try:
            raise LookupError("{SECRET}")
        except LookupError as error:
            raise RuntimeError("no row for {SECRET}") from error
    @app.get("/lies")
    def lies() -> Out:
        return {{"number": "{SECRET}"}}
    @app.get("/breaks-off")
    def breaks_off():
        def body():
            yield b"begun"
            raise ValueError("{SECRET}")
        return StreamingResponse(body())
    @app.get("/group")
    async def group():
        raise ExceptionGroup("{SECRET}", [ValueError("{SECRET}")])
    return app

create_app, assembled.create_app = assembled.create_app, planted
settings = Settings(data_dir=Path(sys.argv[1]))
logs.configure("info")
migrate.upgrade(settings.resolved_database_url)
cli._run_api(settings, "127.0.0.1", int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    folder = tmp_path_factory.mktemp("unforeseen")
    log, port = folder / "log", free_port()
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(port)], stdout=file, stderr=file)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                client.get("/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield client, log
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("path", "error"),
    [(f"/fails/{SECRET}", "RuntimeError"), ("/lies", "ResponseValidationError"), ("/group", "ExceptionGroup")],
)
def test_a_failure_is_answered_by_a_problem_and_logged_without_its_message(
    served: tuple[httpx.Client, Path], path: str, error: str
) -> None:
    client, log = served
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text
    text = log.read_text()
    assert SECRET not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    failures = [line for line in lines if line["action"] == "request.failed" and line["trace"][0].startswith(error)]
    assert len(failures) == 1
    assert failures[0]["method"] == "GET"
    if path.startswith("/fails"):
        assert failures[0]["route"] == "/fails/{name}"
        assert "fails" in failures[0]["trace"][0]
        assert failures[0]["trace"][1].startswith("LookupError")
    if path == "/group":
        assert failures[0]["trace"][1].startswith("ValueError")


def test_an_answer_that_breaks_off_is_cut_and_logged_without_its_message(served: tuple[httpx.Client, Path]) -> None:
    client, log = served
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/breaks-off")
    text = log.read_text()
    assert SECRET not in text
    assert "ValueError" in text
