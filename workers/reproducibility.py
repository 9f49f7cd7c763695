"""Seeds, deterministic kernels, and the record of what a run ran on."""

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision


def generator_for(seed: int) -> torch.Generator:
    """Return a CPU generator; every random choice of a run is drawn from one, whatever the device."""
    return torch.Generator().manual_seed(seed)


def derived_seed(generator: torch.Generator) -> int:
    """Draw a seed below 2**31 for a part that needs a generator of its own."""
    return int(torch.randint(2**31 - 1, (1,), generator=generator))


@contextmanager
def deterministic(seed: int | None = None) -> Iterator[None]:
    """Ask for kernels that repeat bit for bit, and restore the flags after.

    With a seed torch's global random states start from it, and are as before afterwards: dropout draws from no
    generator that could be passed to it. On CUDA the workspace setting only works when it precedes the first use of
    the device.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the versions, device and thread counts a result depends on, JSON-safe."""
    device = torch.device(device)
    on_cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_cuda else platform.machine(),
        "cuda": torch.version.cuda if on_cuda else None,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "code_sha256": code_digest(),
    }


@cache
def code_digest() -> str:
    """Return one SHA-256, in hex, over the source files that decide a result: the workers' and the catalogue's.

    Of lines ``<sha256>  <path>``, sorted by path, as ``sha256sum`` writes them.
    """
    root = Path(__file__).parents[1]
    files = [*(root / "workers").rglob("*.py"), *(root / "service" / "catalogue").rglob("*.py")]
    lines = sorted((path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)
    return hashlib.sha256("".join(f"{digest}  {path}\n" for path, digest in lines).encode()).hexdigest()
