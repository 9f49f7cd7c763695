"""Draw unseen controls: audit samples with the forget set's labels, one for one or several for one."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlPairs:
    """Hold positions in the forget set and in the audit pool, int64 (n,) and (k n,); pair i shares its label.

    k is 1 but for `in_rounds`: then each n controls in a row have the forget samples' labels once.
    """

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


def in_rounds(
    pairs: ControlPairs, forget_labels: Tensor, audit_labels: Tensor, *, generator: torch.Generator
) -> ControlPairs:
    """Add as many whole rounds of further controls as the audit pool has, so that its labels keep their shares.

    No control repeats, and the first round is that of `pairs`. More controls narrow an attack's interval: its
    variance falls from 1/n + 1/n towards 1/n.
    """
    audit_labels, wanted = audit_labels.cpu(), forget_labels.cpu()[pairs.forget]
    if not len(pairs):
        return pairs
    free = torch.ones(len(audit_labels), dtype=torch.bool)
    free[pairs.audit] = False
    classes, counts = torch.unique(wanted, return_counts=True)
    spare = [(free & (audit_labels == label)).nonzero().squeeze(1) for label in classes.tolist()]
    spare = [where[torch.randperm(len(where), generator=generator)] for where in spare]
    further = min(len(where) // int(count) for where, count in zip(spare, counts, strict=True))
    rounds = [pairs.audit]
    for k in range(further):
        drawn = torch.cat([where[k * int(c) : (k + 1) * int(c)] for where, c in zip(spare, counts, strict=True)])
        rounds.append(drawn[torch.randperm(len(drawn), generator=generator)])
    return ControlPairs(forget=pairs.forget, audit=torch.cat(rounds))


def _shuffled(labels: Tensor, label: int, generator: torch.Generator) -> Tensor:
    where = (labels == label).nonzero().squeeze(1)
    return where[torch.randperm(len(where), generator=generator)]
