"""One process of the clients of `benchmarks.load`: threads that each keep a connection and an API key of their own.

Reads a plan as JSON from standard input and prints, as JSON, the milliseconds of every answer by kind, and the faults.
"""

import http.client
import json
import random
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FAULTS_SHOWN = 5
RANGE_BYTES = 1 << 18
# Of a hundred requests; an intake names a few ids of one dataset, which several models were trained on.
MIX = {"intake": 15, "status": 45, "list": 8, "audit_page": 10, "audit_proof": 7, "download": 15}


@dataclass(kw_only=True, eq=False)
class Caller:
    """One thread's connection, what it asks for, and what came of it."""

    plan: dict[str, Any]
    number: int
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    num_faults: int = 0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.plan["seed"] * 1_000 + self.number)
        self.key = self.plan["keys"][self.number % len(self.plan["keys"])]
        self.requests = deque[str](self.plan["requests"], maxlen=200)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.plan["port"], timeout=60)

    def run(self) -> None:
        kinds, weights = list(self.plan["mix"]), list(self.plan["mix"].values())
        end, due = time.monotonic() + self.plan["seconds"], time.monotonic() + self.draw.random() * self.plan["pace"]
        while (now := time.monotonic()) < end:
            if self.plan["pace"] and due > now:
                time.sleep(min(due - now, end - now))
                continue
            due += self.plan["pace"]
            kind = self.draw.choices(kinds, weights)[0]
            try:
                _KINDS[kind](self)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._note(f"{kind}: {type(error).__name__}: {error}")
                self.connection.close()
        self.connection.close()

    def ask(self, kind: str, method: str, path: str, expected: int, *, body: Any = None, **headers: str) -> bytes:
        """Send one request, note how long its whole answer took, and return the body."""
        raw = None if body is None else json.dumps(body).encode()
        headers |= {"Authorization": f"Bearer {self.key}"} | (
            {} if raw is None else {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        self.connection.request(method, path, raw, headers)
        answer = self.connection.getresponse()
        found = answer.read()
        self.times[kind].append(1000 * (time.perf_counter() - started))
        if answer.status != expected:
            self._note(f"{kind}: {answer.status} {found[:200]!r}")
        return found

    def _note(self, fault: str) -> None:
        self.num_faults += 1
        if len(self.faults) < FAULTS_SHOWN:
            self.faults.append(fault)


def _intake(caller: Caller) -> None:
    ids = [caller.plan["prefix"] + str(caller.draw.randrange(caller.plan["samples"])) for _ in range(3)]
    body = {"dataset": caller.plan["dataset"], "sample_ids": sorted(set(ids)), "method": "finetune"}
    key = f"load-{caller.plan['seed']}-{caller.number}-{caller.draw.getrandbits(64)}"
    raw = caller.ask("intake", "POST", "/v1/deletion-requests", 202, body=body, **{"Idempotency-Key": key})
    if "id" in (found := json.loads(raw)):
        caller.requests.append(found["id"])


def _status(caller: Caller) -> None:
    caller.ask("status", "GET", f"/v1/deletion-requests/{caller.draw.choice(caller.requests)}", 200)


def _list(caller: Caller) -> None:
    caller.ask("list", "GET", "/v1/deletion-requests?limit=20", 200)


def _audit_page(caller: Caller) -> None:
    chosen = caller.draw.choice(("action=request.received", f"request_id={caller.draw.choice(caller.requests)}"))
    caller.ask("audit_page", "GET", f"/v1/audit/entries?limit=50&{chosen}", 200)


def _audit_proof(caller: Caller) -> None:
    seq = caller.draw.randrange(caller.plan["entries"])
    caller.ask("audit_proof", "GET", f"/v1/audit/entries/{seq}/proof", 200)


def _download(caller: Caller) -> None:
    start = caller.draw.randrange(caller.plan["weights_bytes"] - RANGE_BYTES)
    byte_range = f"bytes={start}-{start + RANGE_BYTES - 1}"
    found = caller.ask("download", "GET", caller.plan["weights"], 206, Range=byte_range)
    if len(found) != RANGE_BYTES:
        raise ValueError(f"{len(found)} bytes came")


_KINDS: dict[str, Callable[[Caller], None]] = {
    "intake": _intake,
    "status": _status,
    "list": _list,
    "audit_page": _audit_page,
    "audit_proof": _audit_proof,
    "download": _download,
}


def main() -> None:
    """Carry the plan out and print what came of it."""
    plan = json.loads(sys.stdin.read())
    callers = [Caller(plan=plan, number=number) for number in range(plan["threads"])]
    threads = [threading.Thread(target=caller.run, daemon=True) for caller in callers]
    used = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(plan["seconds"] + 90)
    times: dict[str, list[float]] = defaultdict(list)
    for caller in callers:
        for kind, found in caller.times.items():
            times[kind] += found
    print(
        json.dumps(
            {
                "times": times,
                "errors": sum(caller.num_faults for caller in callers),
                "faults": [fault for caller in callers for fault in caller.faults][:FAULTS_SHOWN],
                "cpu_seconds": time.process_time() - used,
            }
        )
    )


if __name__ == "__main__":
    main()
