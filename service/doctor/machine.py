"""Has this machine room on its disk, a clock that can be relied on, and the device that the settings ask for?"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from service.doctor.finding import Finding
from service.settings import Settings

_LEAST_FREE, _LEAST_SHARE = 2 * 2**30, 0.05
# With so few bytes free the database itself may have no room for its next page.
_FULL = 2**20
_TORCH_SECONDS = 120.0
# In a process of its own: the service loads no torch.
_ASK_TORCH = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "visible": torch.cuda.is_available()}
if found["visible"]:
    free, total = torch.cuda.mem_get_info()
    found |= {"name": torch.cuda.get_device_name(0), "free": free, "total": total}
print(json.dumps(found))
"""


def disk(settings: Settings) -> Iterator[Finding]:
    seen = set[int]()
    for name, url in (
        ("data folder", str(settings.data_dir)),
        ("artifact store", settings.resolved_artifacts_url),
        ("erasure journal", settings.resolved_erasure_journal_url),
    ):
        if "://" in url:
            continue
        place = _nearest_folder(Path(url).resolve())
        if (device := place.stat().st_dev) not in seen:
            seen.add(device)
            yield _room(name, place)


def _nearest_folder(path: Path) -> Path:
    """Return the folder itself, or the one in which it would be made."""
    return next((each for each in (path, *path.parents) if each.is_dir()), Path("/"))


def _room(name: str, place: Path) -> Finding:
    found = shutil.disk_usage(place)
    said = f"{found.free / 2**30:.1f} of {found.total / 2**30:.1f} GiB are free at the {name}"
    if found.free < _FULL:
        todo = "Free or add space now: nothing is taken in or published, and other faults may come of it."
        return Finding.fault("disk", f"the {name}'s disk is full: {said}", todo)
    if found.free < _LEAST_FREE or found.free < _LEAST_SHARE * found.total:
        return Finding.warning("disk", said, "Make room before it is full: uploads and publishing then fail.")
    return Finding.ok("disk", said)


def clock(_: Settings) -> Iterator[Finding]:
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.2)
    drift = abs((time.time() - wall) - (time.monotonic() - steady))
    if drift > 0.05:
        yield Finding.warning("clock", f"jumped by {drift:.2f} s while looked at", "Have NTP slew it, not step it.")
    else:
        yield Finding.ok("clock", "runs evenly")


def device(settings: Settings) -> Iterator[Finding]:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        found = None
    if found is None:
        todo = "On a worker install the extra `worker`; an API process needs no torch."
        yield Finding.warning("device", "torch cannot be loaded here", todo)
    elif found["visible"]:
        memory = f"{found['free'] / 2**30:.1f} of {found['total'] / 2**30:.1f} GiB free"
        yield Finding.ok("device", f"torch {found['torch']}, CUDA {found['cuda']}, {found['name']}, {memory}")
    elif settings.device == "cuda":
        todo = "The driver, the container toolkit, or a CPU build of torch: `nvidia-smi` and `torch.version.cuda` tell."
        yield Finding.fault("device", f"torch {found['torch']} sees no GPU, and UNLEARN_DEVICE is cuda", todo)
    else:
        yield Finding.ok("device", f"torch {found['torch']}, on the CPU")
