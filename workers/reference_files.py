"""Reference logits as one safetensors file: the digest is checked before anything is parsed. Holds no sample ID."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.checkpoints import BadCheckpoint, file_digest, write
from workers.evaluation.reference_logits import ReferenceLogits

FORMAT = "reference-logits/1"
_TENSORS = tuple(field.name for field in fields(ReferenceLogits))


class BadReferences(BadCheckpoint):
    """The file is not the reference logits it should be; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where reference logits come from: digests of the model's specification and of the dataset,
    the seed, and whether they were trained stacked or plain."""

    spec_sha256: str
    dataset_sha256: str
    seed: int
    way: str


def save(references: ReferenceLogits, path: Path, *, origin: Origin) -> str:
    """Write the file and return its SHA-256."""
    tensors = {name: getattr(references, name).contiguous() for name in _TENSORS}
    # one entry: several come in any order, and equal references would have unequal digests
    write(tensors, path, metadata={FORMAT: json.dumps(asdict(origin), sort_keys=True)})
    return file_digest(path)


def load(path: Path, *, sha256: str) -> tuple[ReferenceLogits, Origin]:
    """Return the logits, on the CPU, and where they come from. Raises BadReferences."""
    found = file_digest(path)
    if found != sha256:
        raise BadReferences(f"the reference logits' SHA-256 is {found}, not {sha256}")
    tensors, metadata = _read(path)
    if FORMAT not in metadata:
        raise BadReferences(f"the file's format is not {FORMAT}")
    missing = [name for name in _TENSORS if name not in tensors]
    if missing:
        raise BadReferences(f"the file lacks {', '.join(missing)}")
    try:
        return ReferenceLogits(**{name: tensors[name] for name in _TENSORS}), Origin(**json.loads(metadata[FORMAT]))
    except (ValueError, TypeError, IndexError) as error:
        raise BadReferences(f"the reference logits do not fit together: {error}") from None


def rewrite_without(path: Path, target: Path, positions: Tensor, *, sha256: str) -> str:
    """Write the file anew without the rows at these dataset positions, and return the new SHA-256.

    The old file still holds them: whoever stores it removes it. Raises BadReferences.
    """
    references, origin = load(path, sha256=sha256)
    return save(references.without(positions), target, origin=origin)


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError:
        raise BadReferences("the file is not safetensors") from None
