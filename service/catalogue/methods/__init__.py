"""The unlearning methods, what each needs and promises, and its options with the paper's presets.

One file per method, as in workers.unlearning, where the methods themselves stand under the same names.
"""

from service.catalogue.methods.bad_teacher import BAD_TEACHER, BadTeacherConfig
from service.catalogue.methods.cf_k import CF_K, CfKConfig
from service.catalogue.methods.conv_transpose import CONV_TRANSPOSE, ConvTransposeConfig
from service.catalogue.methods.dampening import DampeningConfig
from service.catalogue.methods.delete import DELETE, DeleteConfig
from service.catalogue.methods.eu_k import EU_K, EuKConfig
from service.catalogue.methods.finetune import FINETUNE, FinetuneConfig
from service.catalogue.methods.ieu import IEU, IeuConfig
from service.catalogue.methods.influence import INFLUENCE, InfluenceConfig
from service.catalogue.methods.l1_sparse import L1_SPARSE, L1SparseConfig
from service.catalogue.methods.lfssd import LFSSD, LfssdConfig
from service.catalogue.methods.msg import MSG, MsgConfig
from service.catalogue.methods.mu_mis import MU_MIS, MuMisConfig
from service.catalogue.methods.neggrad import NEGGRAD, NegGradConfig
from service.catalogue.methods.neggrad_plus import NEGGRAD_PLUS, NegGradPlusConfig
from service.catalogue.methods.noise_finetune import NOISE_FINETUNE, NoiseFinetuneConfig
from service.catalogue.methods.random_label import RANDOM_LABEL, RandomLabelConfig
from service.catalogue.methods.retrain import RETRAIN, RetrainConfig
from service.catalogue.methods.salun import SALUN, SalunConfig
from service.catalogue.methods.scrub import SCRUB, SCRUB_R, ScrubConfig, ScrubRConfig
from service.catalogue.methods.sisa import SISA, SisaConfig
from service.catalogue.methods.spec import Available, MethodConfig, MethodSpec, Need, Purpose
from service.catalogue.methods.ssd import SSD, SsdConfig

__all__ = [
    "AUTO",
    "METHODS",
    "Available",
    "BadTeacherConfig",
    "CfKConfig",
    "ConvTransposeConfig",
    "DampeningConfig",
    "DeleteConfig",
    "EuKConfig",
    "FinetuneConfig",
    "IeuConfig",
    "InfluenceConfig",
    "L1SparseConfig",
    "LfssdConfig",
    "MethodConfig",
    "MethodSpec",
    "MsgConfig",
    "MuMisConfig",
    "Need",
    "NegGradConfig",
    "NegGradPlusConfig",
    "NoiseFinetuneConfig",
    "Purpose",
    "RandomLabelConfig",
    "RetrainConfig",
    "SalunConfig",
    "ScrubConfig",
    "ScrubRConfig",
    "SisaConfig",
    "SsdConfig",
    "options_of",
]

AUTO = "auto"
"""Asks the service to choose: the methods of the model's ladder, in its order."""
METHODS: dict[str, MethodSpec] = {
    spec.id: spec
    for spec in (
        SCRUB,
        SCRUB_R,
        MU_MIS,
        DELETE,
        IEU,
        NEGGRAD_PLUS,
        NEGGRAD,
        SSD,
        LFSSD,
        INFLUENCE,
        SALUN,
        RANDOM_LABEL,
        BAD_TEACHER,
        FINETUNE,
        L1_SPARSE,
        CF_K,
        EU_K,
        NOISE_FINETUNE,
        CONV_TRANSPOSE,
        MSG,
        SISA,
        RETRAIN,
    )
}


def options_of(method: str) -> type[MethodConfig]:
    """Return the schema of a method's options; `auto` takes the seed alone. Raises KeyError."""
    return MethodConfig if method == AUTO else METHODS[method].config
