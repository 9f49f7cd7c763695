"""The unlearning methods by name: one method, one file, one paper."""

from collections.abc import Callable

from workers.unlearning.bad_teacher import bad_teacher
from workers.unlearning.cf_k import cf_k
from workers.unlearning.conv_transpose import conv_transpose
from workers.unlearning.delete import delete
from workers.unlearning.eu_k import eu_k
from workers.unlearning.finetune import finetune
from workers.unlearning.ieu import ieu
from workers.unlearning.influence import influence
from workers.unlearning.interface import UnknownMethodError, UnlearningResult
from workers.unlearning.l1_sparse import l1_sparse
from workers.unlearning.lfssd import lfssd
from workers.unlearning.msg import msg
from workers.unlearning.mu_mis import mu_mis
from workers.unlearning.neggrad import neggrad
from workers.unlearning.neggrad_plus import neggrad_plus
from workers.unlearning.noise_finetune import noise_finetune
from workers.unlearning.random_label import random_label
from workers.unlearning.retrain import retrain
from workers.unlearning.salun import salun
from workers.unlearning.scrub import scrub, scrub_r
from workers.unlearning.sisa import sisa
from workers.unlearning.ssd import ssd

Method = Callable[..., UnlearningResult]
"""Called as method(model, splits, config, around=Surroundings(...)); each takes its own config class."""

METHODS: dict[str, Method] = {
    "bad_teacher": bad_teacher,
    "cf_k": cf_k,
    "conv_transpose": conv_transpose,
    "delete": delete,
    "eu_k": eu_k,
    "finetune": finetune,
    "ieu": ieu,
    "influence": influence,
    "l1_sparse": l1_sparse,
    "lfssd": lfssd,
    "msg": msg,
    "mu_mis": mu_mis,
    "neggrad": neggrad,
    "neggrad_plus": neggrad_plus,
    "noise_finetune": noise_finetune,
    "random_label": random_label,
    "retrain": retrain,
    "salun": salun,
    "scrub": scrub,
    "scrub_r": scrub_r,
    "sisa": sisa,
    "ssd": ssd,
}


def method_named(name: str) -> Method:
    """Return the method of that name; raise UnknownMethodError, which lists those there are."""
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownMethodError(f"unknown method {name!r}; known: {sorted(METHODS)}") from None
