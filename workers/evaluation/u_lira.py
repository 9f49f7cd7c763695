"""U-LiRA, for benchmarks: the likelihood-ratio attack fitted to models that unlearned the very sample.

Hayes et al., arXiv:2403.01218. Per sample, phi under shadow models that trained with it and then unlearned it, by
the method under test with a forget set of the same size, against phi under shadow models that never saw it.
It reads phi, never 0/1 correctness, whose variance is 0 where every model is right.
"""

from workers.evaluation.intervals import Floats
from workers.evaluation.lira import by_ratio
from workers.evaluation.reference_models import Bools, check_reference
from workers.evaluation.result import MetricResult


def u_lira(
    target: Floats, is_member: Bools, *, reference: Floats, unlearned: Bools, unseen: Bools
) -> list[MetricResult]:
    """Return AUC and true positive rates between samples the audited model unlearned and those it never saw.

    `target` is phi under the audited model (N,); `is_member` says it unlearned the sample. `reference` is phi under
    S shadow models (S, N), `unlearned` and `unseen` bool (S, N) what each did; a model that kept the sample is
    neither. Several audited models may be laid side by side along N. Raises ValueError if a model is both.
    """
    check_reference(target, is_member, reference, unlearned, unseen)
    if (unlearned & unseen).any():
        raise ValueError("a shadow model cannot both have unlearned a sample and never have seen it")
    return by_ratio("u_lira", target, is_member, reference=reference, inside=unlearned, outside=unseen)
