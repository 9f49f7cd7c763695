"""The allocator keeps to few arenas and gives large blocks back, in a process that asked for it."""

import ctypes
import subprocess
import sys
from contextlib import nullcontext
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from service import app, heap
from workers import resumption, tasks

_PROBE = """
import ctypes, os, re, sys, threading
from service import heap
if sys.argv[1] == "asked" and not heap.keep_little():
    raise SystemExit(77)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.fdopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
together = threading.Barrier(8)

def allocate():
    block = libc.malloc(1000)
    together.wait()  # each has an arena by now, while all of the others live
    libc.free(block)

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()

# A large block that is freed raises the size from which blocks are mapped, unless it was named.
libc.free(libc.malloc(8 << 20))
mapped = libc.malloc(4 << 20)
read, write = os.pipe()
file = libc.fdopen(write, b"w")
libc.malloc_info(0, file)
libc.fclose(file)
told = os.fdopen(read).read()
print(len(re.findall("<heap ", told)), re.findall('type="mmap" count="([0-9]+)"', told)[-1])
"""


def _arenas_and_mappings(how: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _PROBE, how], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    arenas, mappings = done.stdout.split()
    return int(arenas), int(mappings)


def test_threads_share_two_arenas_and_large_blocks_are_mapped_apart() -> None:
    arenas, mappings = _arenas_and_mappings("asked")
    assert arenas <= 2
    plain_arenas, plain_mappings = _arenas_and_mappings("not")
    assert plain_arenas > arenas  # or this would tell nothing
    assert mappings > plain_mappings


_GAPS = """
import ctypes, psutil
from service import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
here = psutil.Process()
before = here.memory_info().rss
blocks = [libc.malloc(20_000) for _ in range(2_000)]
for block in blocks: ctypes.memset(block, 1, 20_000)
for block in blocks[:-1]: libc.free(block)  # the last one keeps the heap's end up
kept = here.memory_info().rss - before
heap.give_back()
print(kept, here.memory_info().rss - before)
"""


def test_pages_between_used_ones_are_given_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    done = subprocess.run([sys.executable, "-c", _GAPS], capture_output=True, text=True, timeout=60, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 30e6  # or this would tell nothing
    assert left < 5e6


def test_the_api_gives_memory_back_in_a_duty_of_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(heap, "give_back", lambda: given.append(True))
    parts: Any = None
    (duty,) = [each for each in app._DUTIES if each.name == "memory"]
    duty.run(parts)
    assert given == [True]
    assert duty.everywhere


def test_a_worker_gives_memory_back_after_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    claim: Any = SimpleNamespace(job_id="job", fence=1, kind="erase")
    coming = [claim, claim, None]
    monkeypatch.setattr(heap, "give_back", lambda: given.append("back"))
    monkeypatch.setattr(tasks, "attempt", lambda *_: given.append("job"))
    monkeypatch.setattr(tasks, "_next", lambda _: coming.pop(0))
    monkeypatch.setattr(tasks, "patiently", lambda *_: [])
    monkeypatch.setattr(tasks, "replays", SimpleNamespace(pending=lambda _: None))
    monkeypatch.setattr(resumption, "clear", lambda _: None)
    bench: Any = SimpleNamespace(database=SimpleNamespace(reading=nullcontext), stopping=Event())
    assert tasks.run_all(bench) == 2
    assert given == ["job", "back", "job", "back"]
