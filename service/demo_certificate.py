"""The demo's last step: fetch the certificate, and check it with the verifier that stands alone."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from service.demo_calls import STEP_SECONDS, StepFailed, document_of, expect
from service.evidence import verify


def check_certificate(client: httpx.Client, request_id: str, weights: Path, folder: Path) -> Iterator[str]:
    """Yield what the verifier says of the certificate, and of one in which a single bit is another."""
    bundle = _fetched(client, request_id)
    path = folder / "certificate.json"
    path.write_bytes(bundle)
    # An auditor has this key from elsewhere: whoever serves a false certificate can serve a false key beside it.
    key = document_of(client.get("/v1/audit/keys"))["items"][-1]["verifier_key"]
    said, code = _verified(path, key, weights)
    expect(code == 0, f"the verifier refused the certificate: {said}")
    yield from said.splitlines()
    page = client.get(f"/v1/deletion-requests/{request_id}/certificate.html")
    expect(page.status_code == 200, f"the certificate's page answered {page.status_code}")
    (folder / "certificate.html").write_bytes(page.content)
    yield f"For reading: {folder / 'certificate.html'}"
    path = folder / "certificate-altered.json"
    middle = len(bundle) // 2
    path.write_bytes(bundle[:middle] + bytes([bundle[middle] ^ 1]) + bundle[middle + 1 :])
    said, code = _verified(path, key, weights)
    expect(code == 1, f"the verifier did not refuse an altered certificate: {said}")
    yield f"With one bit changed: {said}"


def _fetched(client: httpx.Client, request_id: str) -> bytes:
    """Return the bundle once it is issued: the old version's bytes are proven absent first."""
    end = time.monotonic() + STEP_SECONDS
    while time.monotonic() < end:
        answer = client.get(f"/v1/deletion-requests/{request_id}/certificate")
        if answer.status_code == 200:
            return answer.content
        expect(answer.status_code == 409, f"the certificate answered {answer.status_code}: {answer.text[:500]}")
        time.sleep(0.5)
    raise StepFailed(f"no certificate within {STEP_SECONDS} s")


def _verified(bundle: Path, key: str, weights: Path) -> tuple[str, int]:
    # Without this project on its path: the file needs none of it.
    command = [sys.executable, "-I", str(verify.__file__), str(bundle), "--trusted-key", key, "--weights", str(weights)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own file
    return (done.stdout + done.stderr).strip(), done.returncode
