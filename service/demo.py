"""The demo: the whole life of a deletion request on real images, over HTTP, each step checked.

Talks to the embedded service as any client would. Exits 0 only if each step did what it says.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service.demo_calls import STEP_SECONDS, StepFailed, document_of, expect, poll
from service.demo_certificate import check_certificate
from service.demo_tables import audit_table, comparison
from service.free_port import free_port

RECIPE = {
    "epochs": 25,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "schedule": "one_cycle",
    "seed": 0,
}
FORGET = 90
# Generous, for a slow disk and a busy processor: a service that has ended is noticed at once.
READY_SECONDS, END_SECONDS = 300, 90
# Wide enough for the tables where there is no terminal to ask.
console = Console(width=None if sys.stdout.isatty() else 110)


def run(data_dir: Path | None, *, keep: bool) -> int:
    """Run the demo and return its exit code."""
    folder = data_dir or Path(tempfile.mkdtemp(prefix="unlearn-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        with _service(folder) as (client, key):
            _steps(client, folder)
            console.print(f"\nAll steps did what they say, in {time.monotonic() - started:.0f} s.", style="bold green")
            if keep:
                _stay(client, key)
    except (StepFailed, httpx.HTTPError) as error:
        console.print(f"\nThe demo failed: {error}", style="bold red")
        console.print(f"The service's log is {folder / 'service.log'}.")
        return 1
    return 0


def _stay(client: httpx.Client, key: str) -> None:
    console.print(f"\nThe service stays up at {client.base_url}; press Ctrl-C to end it.\nkey: {key}")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


@contextmanager
def _service(folder: Path) -> Iterator[tuple[httpx.Client, str]]:
    """Start `unlearn serve` with its worker process, and yield a client with a fresh admin key."""
    port = free_port()
    place = ["--data-dir", str(folder)]
    cli = [sys.executable, "-m", "service.cli"]
    key = subprocess.run(  # noqa: S603 - our own module
        [*cli, "keys", "create", "demo", "--scope", "admin", *place], check=True, capture_output=True, text=True
    ).stdout.strip()
    with (folder / "service.log").open("ab") as log:
        serving = subprocess.Popen([*cli, "serve", "--port", str(port), *place], stdout=log, stderr=log)  # noqa: S603
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            _until_ready(client, serving)
            console.print(f"1. The embedded service is ready at {url}: API and worker are separate processes.")
            yield client, key
    finally:
        serving.terminate()
        try:
            serving.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            serving.kill()


def _until_ready(client: httpx.Client, serving: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if serving.poll() is not None:
            raise StepFailed(f"the service ended with exit code {serving.returncode}")
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise StepFailed(f"the service was not ready within {READY_SECONDS} s")


def _steps(client: httpx.Client, folder: Path) -> None:
    dataset = _register(client)
    original = _train(client)
    request = _request(client)
    _follow(client, request["id"])
    done = document_of(client.get(f"/v1/deletion-requests/{request['id']}"))
    expect(done["status"] == "completed", f"the request ended as {done['status']}")
    expect(done["outcomes"]["erased"] == FORGET, f"outcomes were {done['outcomes']}")
    report = document_of(client.get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}"))
    console.print(f"\n5. What was measured (report {report['id']}):")
    console.print(comparison(report))
    tried = ", then ".join(f"{rung['method']}: {rung['verdict']}" for rung in report["rungs"])
    console.print(f"   The gate ({tried}). {report['gate']['sentence']}")
    _check_measures(report)
    weights = _download(client, done["jobs"][0]["version"], folder)
    _gone(client, original)
    _forgotten(client, dataset)
    entries = document_of(client.get("/v1/audit/entries", params={"limit": 500}))["items"]
    console.print(f"\n9. The audit trail ({len(entries)} entries, append-only; no entry names a sample):")
    console.print(audit_table(entries))
    expect([entry["seq"] for entry in entries] == list(range(len(entries))), "the audit log has gaps")
    console.print("\n10. The certificate, signed, with proofs that its entries are in the log:")
    for line in check_certificate(client, request["id"], weights, folder):
        console.print(f"   {line}", highlight=False)


def _register(client: httpx.Client) -> dict[str, Any]:
    document_of(client.post("/v1/datasets", json={"name": "digits", "source": "sklearn:digits"}), 202)
    dataset = poll(client, "/v1/datasets/digits", lambda found: found["state"] != "indexing")
    expect(dataset["state"] == "ready", f"indexing failed: {dataset['error']}")
    console.print(f"2. Dataset `digits`: {dataset['num_samples']} real images, splits {dataset['splits']}.")
    return dataset


def _train(client: httpx.Client) -> int:
    body = {"name": "demo", "dataset": "digits", "architecture": "small_cnn", "architecture_options": {"width": 24}}
    document_of(client.post("/v1/models", json={**body, "recipe": RECIPE}), 201)
    job_id = document_of(client.post("/v1/models/demo/versions", json={"train": True}), 202)["job"]["id"]
    with _bar() as bar:
        task = bar.add_task("3. The worker trains the original", total=None)

        def ended(job: dict[str, Any]) -> bool:
            bar.update(task, completed=job["progress"]["done"], total=job["progress"]["total"] or None)
            return job["status"] not in ("queued", "running")

        job = poll(client, f"/v1/jobs/{job_id}", ended)
    expect(job["status"] == "published", f"training ended as {job['status']}: {job['error']}")
    return int(job["version"])


def _request(client: httpx.Client) -> dict[str, Any]:
    page = document_of(client.get("/v1/datasets/digits/samples", params={"split": "train", "limit": 1000}))
    items = page["items"]
    # Evenly spread over the listing: all classes, no choice of convenient samples.
    named = [items[i * len(items) // FORGET]["sample_id"] for i in range(FORGET)]
    body = {"dataset": "digits", "sample_ids": named, "purpose": "privacy", "method": "scrub_r"}
    answer = client.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": "demo-1"})
    request = document_of(answer, 202)
    again = document_of(client.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": "demo-1"}), 202)
    expect(again["id"] == request["id"], "the same Idempotency-Key made a second request")
    console.print(f"4. Deletion request {request['id']}: {FORGET} sample IDs, method scrub_r, due {request['due_at']}.")
    return request


def _follow(client: httpx.Client, request_id: str) -> None:
    with (
        _bar() as bar,
        client.stream("GET", f"/v1/deletion-requests/{request_id}/events", timeout=STEP_SECONDS) as stream,
    ):
        task = bar.add_task("   waiting for the worker", total=None)
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if name == "progress":
                    bar.update(task, description=f"   {data['phase']}", completed=data["done"], total=data["total"])
                else:
                    said = data.get("action") or data.get("status") or f"version {data.get('version', '')}"
                    bar.console.print(f"   event {name}: {said}")


def _check_measures(report: dict[str, Any]) -> None:
    delay = {m["split"]: m["value"] for m in report["metrics"] if m["name"] == "relearning_delay"}
    before = {m["split"]: m["value"] for m in report["parent_metrics"] if m["name"] == "relearning_delay"}
    expect(before["forget"] == 0, "the parent should know its own training samples")
    # A retrained model never saw the samples: on so small a set what it learned from others may do as well.
    known = delay["forget"] == 0 and report["guarantee"] != "exact"
    expect(not known, "the unlearned model still knows the forget set: its relearning delay is 0")


def _download(client: httpx.Client, number: int, folder: Path) -> Path:
    answer = client.get(f"/v1/models/demo/versions/{number}/weights")
    expect(answer.status_code == 200, f"the download answered {answer.status_code}")
    digest = hashlib.sha256(answer.content).hexdigest()
    expect(answer.headers["etag"] == f'"sha256:{digest}"', "the ETag is not the digest of the bytes")
    stated = document_of(client.get("/v1/models/demo/versions/latest"))
    expect(stated["number"] == number and stated["sha256"] == digest, "the version's digest is not that of the bytes")
    console.print(f"\n6. Downloaded version {number}: {len(answer.content)} bytes, SHA-256 {digest}, as stated.")
    path = folder / f"demo-{number}.safetensors"
    path.write_bytes(answer.content)
    return path


def _gone(client: httpx.Client, number: int) -> None:
    answer = client.get(f"/v1/models/demo/versions/{number}/weights")
    expect(answer.status_code == 410, f"the old weights answered {answer.status_code}, not 410")
    console.print(f"7. The old version {number} answers 410: {answer.json()['detail']}")


def _forgotten(client: httpx.Client, before: dict[str, Any]) -> None:
    after = document_of(client.get("/v1/datasets/digits"))
    left = before["splits"]["train"] - after["splits"]["train"]
    expect(left == FORGET, f"the index lost {left} samples, not {FORGET}")
    console.print(f"8. The index holds {left} train samples fewer; only keyed hashes of their IDs remain.")


def _bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console)
