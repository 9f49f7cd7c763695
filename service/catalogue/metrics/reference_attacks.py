"""Attacks on membership that compare with reference models: what other models say of the same sample."""

from service.catalogue.metrics.spec import MetricSpec, When

_LIRA = "Carlini et al., S&P 2022, arXiv:2112.03570"
_RMIA = "Zarifzadeh et al., ICML 2024, arXiv:2312.03262"
_GIVEN = "The interval takes the reference models as given; more or better ones may tell members."
_TWO_SIDED = " Far below 0.5 is a leak too."


def _attack(attack: str, title: str, score: str, source: str, limits: str) -> list[MetricSpec]:
    return [_auc(attack, title, score, source, limits)] + [
        _tpr(attack, title, percent, rate, controls, limits)
        for percent, rate, controls in (("1pct", "1%", "1,000"), ("0_1pct", "0.1%", "10,000"))
    ]


def _when(attack: str) -> When:
    return "benchmarks" if attack == "u_lira" else "reference models"


def _auc(attack: str, title: str, score: str, source: str, limits: str) -> MetricSpec:
    return MetricSpec(
        id=f"{attack}.auc",
        title=f"{title}, AUC",
        formula=f"P(score of a forgotten sample > score of an unseen control's), ties half; score = {score}",
        source=source,
        basis="reference models",
        direction="target",
        ideal=0.5,
        kind="evidence",
        does_not_prove=limits + _TWO_SIDED,
        when=_when(attack),
    )


def _tpr(attack: str, title: str, percent: str, rate: str, controls: str, limits: str) -> MetricSpec:
    return MetricSpec(
        id=f"{attack}.tpr_at_fpr_{percent}",
        title=f"{title}, true positives at {rate} false positives",
        formula=f"share of forgotten samples whose score is above the threshold that at most {rate} of controls pass; "
        f"inconclusive below {controls} controls",
        source=_LIRA,
        basis="reference models",
        direction="lower",
        ideal=float(rate.rstrip("%")) / 100,
        kind="evidence",
        does_not_prove=limits,
        when=_when(attack),
    )


REFERENCE_ATTACKS = [
    *_attack(
        "lira_offline",
        "Likelihood-ratio attack, offline",
        "Phi((phi - mean_out) / std_out), out: reference models that never saw the sample; one variance for all "
        "samples below 32 models",
        _LIRA,
        _GIVEN,
    ),
    *_attack(
        "lira_online",
        "Likelihood-ratio attack, online",
        "log N(phi; mean_in, var_in) - log N(phi; mean_out, var_out), in: reference models that saw the sample; one "
        "variance a side for all samples below 32 models",
        _LIRA,
        _GIVEN,
    ),
    *_attack(
        "rmia.offline",
        "Relative membership attack, offline",
        "share of population samples z with (p(x|model) / p(x)) / (p(z|model) / p(z)) >= 2, "
        "p(x) = ((1 + a) mean_out + 1 - a) / 2, a = 0.3, never tuned",
        _RMIA,
        _GIVEN,
    ),
    *_attack(
        "rmia.online",
        "Relative membership attack, online",
        "as rmia.offline, with p(x) = (mean_in + mean_out) / 2",
        _RMIA,
        _GIVEN,
    ),
    *_attack(
        "u_lira",
        "Likelihood-ratio attack fitted to models that unlearned the sample",
        "log N(phi; mean_in, var_in) - log N(phi; mean_out, var_out), in: shadow models that trained with the sample "
        "and unlearned it by the same method, out: shadow models that never saw it; benchmarks only",
        "Hayes et al. 2024, arXiv:2403.01218",
        "Knows the method and its forget set's size. The interval takes the shadow models as given.",
    ),
]
