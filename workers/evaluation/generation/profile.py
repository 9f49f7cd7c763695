"""How much is drawn and relearned for one report of a generation model."""

from dataclasses import dataclass

from workers.evaluation.generation.drawn import DEFAULT_SAMPLING, SamplingProfile
from workers.evaluation.generation.relearning import DEFAULT_RELEARNING
from workers.evaluation.relearning_curve import RelearningProfile


@dataclass(frozen=True, kw_only=True)
class GenerationProfile:
    """The settings of one evaluation."""

    sampling: SamplingProfile = DEFAULT_SAMPLING
    relearning: RelearningProfile = DEFAULT_RELEARNING


DEFAULT_PROFILE = GenerationProfile()
