"""The membership attack of the SSD and MU-Mis tables: how many forget samples does an entropy rule call members?

Foster et al., AAAI 2024, arXiv:2308.07707; Cheng et al., arXiv:2402.15109. A logistic regression, both classes weighing
the same, learns retained from test samples by the entropy of the output and is then asked about the forget set.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

from workers.evaluation.intervals import wilson
from workers.evaluation.records import Records, refuse_shared_records
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure
from workers.evaluation.scores import Outputs, entropy

NAME = "mia_entropy_lr"


def mia_entropy_lr(
    forget: Outputs, *, retain: Outputs, test: Outputs, records: tuple[Records, Records, Records] | None = None
) -> list[MetricResult]:
    """Return the share of the forget set called member; the interval takes the fitted rule as given.

    `records` are the ids of forget, retain and test, in one namespace: ValueError if two share one.
    """
    if records is not None:
        refuse_shared_records(*records)
    asked, members, controls = (entropy(*side).cpu().numpy() for side in (forget, retain, test))
    if not len(asked) or not len(members) or not len(controls):
        sizes = f"there are {len(asked)}, {len(members)} and {len(controls)}"
        return [no_figure(NAME, "not_applicable", f"needs at least 1 forget, retain and test sample; {sizes}")]
    known = np.concatenate([members, controls])
    if not np.isfinite(known).all() or not np.isfinite(asked).all():
        return [no_figure(NAME, "inconclusive", NOT_A_NUMBER, n=len(asked))]
    if np.ptp(known) == 0:
        return [no_figure(NAME, "inconclusive", "all entropies are equal: no rule can tell anything", n=len(asked))]
    is_member = np.repeat([1, 0], [len(members), len(controls)])
    rule = LogisticRegression(class_weight="balanced", max_iter=1000).fit(known[:, None], is_member)
    hits = int(rule.predict(asked[:, None]).sum())
    return [MetricResult(name=NAME, value=hits / len(asked), ci95=wilson(hits, len(asked)), n=len(asked))]
