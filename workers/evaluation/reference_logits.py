"""Logits of reference models on every sample they could be asked about. Reads and writes no file."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceRows:
    """The rows there are for the positions asked: logits (k, n, K), in_mask (k, n).

    `found` (n,) says which of the positions asked, by index and in their order; `missing` counts the others.
    """

    logits: Tensor
    in_mask: Tensor
    found: Tensor
    missing: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceLogits:
    """What k reference models say, on the CPU.

    logits float32 (k, N, K) of train and audit samples, in_mask bool (k, N) which of these each was trained on,
    population float32 (k, Z, K) of samples that none was trained on. `positions` (N,) and `population_positions`
    (Z,), int64, place them in the dataset. Raises ValueError naming each kind of fault.
    """

    logits: Tensor
    in_mask: Tensor
    positions: Tensor
    population: Tensor
    population_positions: Tensor

    def __post_init__(self) -> None:
        faults = self._shape_faults() or self._content_faults()
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def models(self) -> int:
        """Return k."""
        return len(self.logits)

    def rows(self, positions: Tensor) -> ReferenceRows:
        """Return the rows of train and audit samples at dataset positions, int64 (n,) without repeats."""
        places, found = _look_up(self.positions, positions)
        return ReferenceRows(
            logits=self.logits[:, places],
            in_mask=self.in_mask[:, places],
            found=found,
            missing=len(positions) - len(found),
        )

    def population_rows(self, positions: Tensor) -> ReferenceRows:
        """Return the rows of population samples; their mask is false throughout."""
        places, found = _look_up(self.population_positions, positions)
        logits = self.population[:, places]
        nobody = torch.zeros(logits.shape[:2], dtype=torch.bool)
        return ReferenceRows(logits=logits, in_mask=nobody, found=found, missing=len(positions) - len(found))

    def without(self, positions: Tensor) -> "ReferenceLogits":
        """Return a copy without the rows at these dataset positions, in whichever part they are."""
        kept = ~torch.isin(self.positions, positions)
        population_kept = ~torch.isin(self.population_positions, positions)
        return replace(
            self,
            logits=self.logits[:, kept],
            in_mask=self.in_mask[:, kept],
            positions=self.positions[kept],
            population=self.population[:, population_kept],
            population_positions=self.population_positions[population_kept],
        )

    def _shape_faults(self) -> list[str]:
        k, classes = self.logits.shape[0], self.logits.shape[-1]
        count, others = len(self.positions), len(self.population_positions)
        wanted = {
            "logits": (torch.float32, (k, count, classes)),
            "in_mask": (torch.bool, (k, count)),
            "positions": (torch.int64, (count,)),
            "population": (torch.float32, (k, others, classes)),
            "population_positions": (torch.int64, (others,)),
        }
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in wanted}
        return [
            f"{name} must be {dtype} {shape}, not {tensors[name].dtype} {tuple(tensors[name].shape)}"
            for name, (dtype, shape) in wanted.items()
            if tensors[name].dtype != dtype or tensors[name].shape != shape
        ]

    def _content_faults(self) -> list[str]:
        places = torch.cat((self.positions, self.population_positions))
        checks = {
            "a position comes twice": len(torch.unique(places)) != len(places),
            "a sample is not in for exactly half of the models": bool((2 * self.in_mask.sum(0) != self.models).any()),
            "a logit is not finite": not bool(self.logits.isfinite().all() and self.population.isfinite().all()),
        }
        return [text for text, wrong in checks.items() if wrong]


def _look_up(known: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in `known` the wanted are, and which of the wanted those are; both (n,), in the wanted order."""
    ascending, order = known.sort()
    place = torch.searchsorted(ascending, wanted)
    inside = place < len(known)
    hit = inside.clone()
    hit[inside] = ascending[place[inside]] == wanted[inside]
    return order[place[hit]], hit.nonzero().squeeze(1)
