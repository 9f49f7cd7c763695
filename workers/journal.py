"""Keeps a long training in a file, so that another process goes on from there bit for bit.

One safetensors file holds the weights, buffers, optimiser and random states as tensors, and everything else as JSON
in its header; nothing is unpickled. The parent takes each file away and stores it (workers.resumption): as long as
it has not, no other is written.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from service import outages
from workers import checkpoints
from workers.checkpoints import BadCheckpoint
from workers.line import Line, Stopped
from workers.micro_batches import Split
from workers.training_state import Finished, Journal, Keeper, TrainingState

FILE = "checkpoint.safetensors"
_HEADER = "training"
_FINISHED, _CURRENT, _RANDOM = "finished/", "current/", "random/"
_TAKEN_WITHIN_SECONDS = 60.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Where and how often a file is written, and what the training is bound to: nobody else's file is gone on with."""

    folder: Path
    seconds: float
    bound_to: Mapping[str, str]
    split: Split = field(default_factory=Split)
    """What batches are split into: in other parts sums are rounded otherwise, so a training goes on as it began."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """A training between two epochs: tensors by their names in the file, and JSON-safe facts."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class FileJournal(Journal):
    """Writes a file when so many seconds have passed since the last, 0: at each epoch's end."""

    def __init__(self, terms: Terms, line: Line, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._terms, self.line, self._clock = terms, line, clock
        self._started = self._written = clock()
        self._finished: dict[str, Finished] = {}
        self._current: _Kept | None = None

    def go_on(self, path: Path, *, sha256: str) -> None:
        """Go on from a file, or raise BadCheckpoint and start at the beginning."""
        header, tensors = _read(path, sha256)
        if header["bound_to"] != dict(self._terms.bound_to):
            raise BadCheckpoint("the training was kept under other terms (device, torch, code or order)")
        if not self._terms.split.adopt(header["split"]):
            raise BadCheckpoint("the training was kept with its batches split otherwise")
        self._finished = {
            name: Finished(tensors=_under(f"{_FINISHED}{name}//", tensors), facts=facts)
            for name, facts in header["finished"].items()
        }
        if header["current"] is not None:
            self._current = _Kept(tensors=_under(_CURRENT, tensors), facts=header["current"])
        self.seconds_before = header["seconds"]
        self.resumed_from = (*header["resumed_from"], header["epochs"])
        self.line.tell({"type": "resumed", "epochs": header["epochs"]})

    def part(self, name: str, *, last: bool = False) -> Keeper:
        return _FileKeeper(self, name, last=last)

    def finished(self, name: str) -> Finished | None:
        found = self._finished.get(name)
        if found is None:
            return None
        _set_random_states(found.tensors)
        own = {key: tensor for key, tensor in found.tensors.items() if not key.startswith(_RANDOM)}
        return Finished(tensors=own, facts=found.facts)

    def finish(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, epochs: int, last: bool = False
    ) -> None:
        kept = {**_copied(tensors), **_random_states()}
        self._finished = {each: found for each, found in self._finished.items() if not each.startswith(f"{name}/")}
        self._finished[name] = Finished(tensors=kept, facts={**facts, "epochs": epochs})
        self.write_if_due(None, last=last)

    def taken_up(self, name: str) -> _Kept | None:
        """Return the training that was under way, if it is the one of that name; it is returned once."""
        found = self._current
        if found is None or found.facts["name"] != name:
            return None
        self._current = None
        return found

    def write_if_due(self, current: Callable[[], _Kept] | None, *, last: bool) -> None:
        """Write a file if it is time, or if the work is to stop. Raises Stopped."""
        stopping, now = self.line.stopping(), self._clock()
        spent = self.seconds_before + now - self._started
        due = now - self._written >= self._terms.seconds or (last and spent >= self._terms.seconds)
        if (due or stopping) and self._free(wait=last or stopping):
            self._write(current() if current else None, spent)
            self._written = self._clock()
        if stopping:
            raise Stopped

    def _free(self, *, wait: bool) -> bool:
        """Say whether the file before was taken; where it matters, wait until it is."""
        end = time.monotonic() + _TAKEN_WITHIN_SECONDS
        while (self._terms.folder / FILE).exists():
            if not wait or time.monotonic() > end:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _write(self, current: _Kept | None, spent: float) -> None:
        tensors = {
            f"{_FINISHED}{name}//{key}": tensor
            for name, found in self._finished.items()
            for key, tensor in found.tensors.items()
        }
        epochs = sum(found.facts["epochs"] for found in self._finished.values())
        if current is not None:
            tensors |= {_CURRENT + key: tensor for key, tensor in current.tensors.items()}
            epochs += len(current.facts["losses"])
        header = {
            "bound_to": dict(self._terms.bound_to),
            "split": {"micro_batch": self._terms.split.micro_batch, "halvings": self._terms.split.halvings},
            "seconds": spent,
            "epochs": epochs,
            "resumed_from": list(self.resumed_from),
            "finished": {name: found.facts for name, found in self._finished.items()},
            "current": current.facts if current else None,
        }
        lack = self._lack_of(tensors, json.dumps(header, allow_nan=False))
        if lack is None:
            self.line.tell({"type": "checkpoint", "file": FILE, "epochs": epochs})
        else:
            self.line.tell({"type": "checkpoint_not_written", "code": lack, "epochs": epochs})

    def _lack_of(self, tensors: Mapping[str, Tensor], header: str) -> str | None:
        """Write the file, or return the code of what the disk lacks: the training is worth more than its checkpoint."""
        scratch = self._terms.folder / f"{FILE}.part"
        try:
            # The parent syncs its own copy: this one is worth nothing once this process or its machine has died.
            checkpoints.write(tensors, scratch, metadata={_HEADER: header})
            scratch.rename(self._terms.folder / FILE)
        except OSError as error:
            lack = outages.lacking(error)
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            if lack is None:
                raise
            return lack.code
        return None


class _FileKeeper(Keeper):
    def __init__(self, journal: FileJournal, name: str, *, last: bool) -> None:
        self._journal, self._name, self._last = journal, name, last

    def restore(self, state: TrainingState) -> list[Any]:
        self._journal.line.training = True
        found = self._journal.taken_up(self._name)
        if found is None or not _fits(found, state):
            return []
        _restore(found, state)
        return list(found.facts["losses"])

    def epoch_ended(self, state: TrainingState, losses: Sequence[Any], *, epochs: int) -> None:
        over = len(losses) == epochs
        try:
            self._journal.write_if_due(lambda: self._kept(state, losses), last=self._last and over)
        finally:
            self._journal.line.training = not over

    def _kept(self, state: TrainingState, losses: Sequence[Any]) -> _Kept:
        slots, plain = _optimizer_state(state)
        tensors = {
            **{f"weights/{name}": tensor for name, tensor in _copied(state.tensors).items()},
            **slots,
            **{f"generator/{i}": generator.get_state() for i, generator in enumerate(state.generators)},
            **_random_states(),
        }
        return _Kept(tensors=tensors, facts={"name": self._name, "losses": list(losses), "optimizer": plain})


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _random_states() -> dict[str, Tensor]:
    """Return torch's global random states, which dropout draws from."""
    states = {f"{_RANDOM}cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states |= {f"{_RANDOM}cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_states(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors[f"{_RANDOM}cpu"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"{_RANDOM}cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"{_RANDOM}cuda.{i}"], i)


def _optimizer_state(state: TrainingState) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the optimiser's tensors by their names in the file, and its plain values by parameter."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, slots in state.optimizer.state_dict()["state"].items():
        plain[str(index)] = {}
        for key, value in slots.items():
            if isinstance(value, Tensor):
                tensors |= _copied({f"optimizer/{index}/{key}": value})
            else:
                plain[str(index)][key] = value
    return tensors, plain


def _fits(kept: _Kept, state: TrainingState) -> bool:
    weights = _under("weights/", kept.tensors)
    return {n: (t.shape, t.dtype) for n, t in weights.items()} == {
        n: (t.shape, t.dtype) for n, t in state.tensors.items()
    } and len(_under("generator/", kept.tensors)) == len(state.generators)


def _restore(kept: _Kept, state: TrainingState) -> None:
    weights = _under("weights/", kept.tensors)
    with torch.no_grad():
        for name, tensor in state.tensors.items():
            tensor.copy_(weights[name])
    slots: dict[int, dict[str, Any]] = {int(i): dict(plain) for i, plain in kept.facts["optimizer"].items()}
    for name, tensor in _under("optimizer/", kept.tensors).items():
        index, key = name.split("/", 1)
        slots[int(index)][key] = tensor
    state.optimizer.load_state_dict({"state": slots, "param_groups": state.optimizer.state_dict()["param_groups"]})
    for i, generator in enumerate(state.generators):
        generator.set_state(kept.tensors[f"generator/{i}"])
    _set_random_states(kept.tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read(path: Path, sha256: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a file's JSON and its tensors. Raises BadCheckpoint."""
    try:
        found = checkpoints.file_digest(path)
        if found != sha256:
            raise BadCheckpoint(f"the checkpoint's SHA-256 is {found}, not {sha256}")
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            return header, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, BadCheckpoint):
            raise
        raise BadCheckpoint(f"the checkpoint cannot be read ({type(error).__name__})") from None
