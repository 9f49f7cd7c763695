"""SalUn's "MIA efficacy": the share of the forget set that a support vector machine calls non-member.

Fan et al., ICLR 2024, arXiv:2310.12508. An SVC (RBF kernel, C = 3) learns retained from test samples by one
feature of the output. A smoke test: retrained models do not read 1.0 either, so compare with theirs.
"""

import numpy as np
from sklearn.svm import SVC

from workers.evaluation.intervals import Floats, wilson
from workers.evaluation.records import Records, refuse_shared_records
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure
from workers.evaluation.scores import Outputs, confidence, correctness, entropy, modified_entropy

FEATURES = {
    "confidence": confidence,
    "entropy": entropy,
    "modified_entropy": modified_entropy,
    "correctness": correctness,
}


def mia_svc(
    forget: Outputs,
    *,
    retain: Outputs,
    test: Outputs,
    seed: int,
    max_training: int = 1_000,
    records: tuple[Records, Records, Records] | None = None,
) -> list[MetricResult]:
    """Return one share per feature; the interval takes the fitted machine as given.

    It learns from as many retained as test samples, at most `max_training` of each, drawn by `seed`: fitting
    grows with their square. `records` are the ids of forget, retain and test, in one namespace: ValueError if
    two share one.
    """
    if records is not None:
        refuse_shared_records(*records)
    rng = np.random.default_rng(seed)
    size = min(len(retain[1]), len(test[1]), max_training)
    drawn = [rng.permutation(len(side[1]))[:size] for side in (retain, test)]
    results = []
    for name, feature in FEATURES.items():
        asked, members, controls = (feature(*side).cpu().numpy() for side in (forget, retain, test))
        results.append(non_members(f"mia_svc.{name}", asked, members[drawn[0]], controls[drawn[1]]))
    return results


def non_members(name: str, asked: Floats, members: Floats, controls: Floats) -> MetricResult:
    """Return the share of `asked` that a machine fitted to the two sides calls non-member."""
    n = len(asked)
    if not n or not len(members) or not len(controls):
        sizes = f"there are {n}, {len(members)} and {len(controls)}"
        return no_figure(name, "not_applicable", f"needs at least 1 forget, retain and test sample; {sizes}")
    known = np.concatenate([members, controls])
    if not np.isfinite(known).all() or not np.isfinite(asked).all():
        return no_figure(name, "inconclusive", NOT_A_NUMBER, n=n)
    if np.ptp(known) == 0:
        return no_figure(name, "inconclusive", "the feature is equal on all samples: nothing can be told by it", n=n)
    is_member = np.repeat([1, 0], [len(members), len(controls)])
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(known[:, None], is_member)
    hits = int(np.sum(machine.predict(asked[:, None]) == 0))
    return MetricResult(name=name, value=hits / n, ci95=wilson(hits, n), n=n, extra={"training": len(known)})
