"""Draw unseen controls: audit samples with the forget set's labels, both sides cut to equal size."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlPairs:
    """Hold positions in the forget set and in the audit pool, int64 (n,) each; pair i shares its label."""

    forget: Tensor
    audit: Tensor

    def __len__(self) -> int:
        return len(self.forget)


def draw_controls(
    forget_labels: Tensor, audit_labels: Tensor, *, generator: torch.Generator, limit: int | None = None
) -> ControlPairs:
    """Draw pairs of equal label, without repeats on either side; at most `limit` of them, drawn at random.

    A class of which the audit pool has fewer samples than the forget set is cut to what there is, the forget
    samples kept being drawn at random. No common class, or an empty side, gives no pairs. Positions are on the CPU.
    """
    forget_labels, audit_labels = forget_labels.cpu(), audit_labels.cpu()
    forget_parts = [torch.empty(0, dtype=torch.int64)]
    audit_parts = [torch.empty(0, dtype=torch.int64)]
    for label in torch.unique(forget_labels).tolist():
        ours = _shuffled(forget_labels, label, generator)
        theirs = _shuffled(audit_labels, label, generator)
        count = min(len(ours), len(theirs))
        forget_parts.append(ours[:count])
        audit_parts.append(theirs[:count])
    forget, audit = torch.cat(forget_parts), torch.cat(audit_parts)
    order = torch.randperm(len(forget), generator=generator)[:limit]
    return ControlPairs(forget=forget[order], audit=audit[order])


def _shuffled(labels: Tensor, label: int, generator: torch.Generator) -> Tensor:
    where = (labels == label).nonzero().squeeze(1)
    return where[torch.randperm(len(where), generator=generator)]
