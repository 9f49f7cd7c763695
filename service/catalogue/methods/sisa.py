"""SISA, exact unlearning of models that were trained for it: options and what it promises."""

from service.catalogue.methods.spec import MethodConfig, MethodSpec
from service.catalogue.tasks import Task


class SisaConfig(MethodConfig):
    """Options of SISA: none that change its result, which follows from the recipe, its seeds and the retain set."""


SISA = MethodSpec(
    id="sisa",
    title="Sharded, isolated, sliced, aggregated training",
    paper="Bourtoule et al., Machine Unlearning, S&P 2021, arXiv:1912.03817",
    guarantee="exact",
    fidelity="paper",
    needs=frozenset({"forget", "retain", "recipe"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    needs_sharded_recipe=True,
    uses=frozenset({"shard_checkpoints"}),
    config=SisaConfig,
    summary="Only for models registered with `recipe.sisa`. Shards that hold a forgotten sample go back to the "
    "checkpoint before the first slice that does, and are trained forward from there without the forget set; the "
    "others stay. The result is the model that training in shards on the retain set alone, with the same seeds, would "
    "give. Of the forget set it takes the places, and reads no image and no label.",
    does_not_prove="Nothing about copies, logs or caches of the data outside this model, nor about choices (recipe, "
    "architecture) that were made with the erased samples in view; on a GPU, equal to the last bit only on the same "
    "kind of device and software.",
    not_for={Task.GENERATION: "it averages classifiers trained in shards, and no noise predictor is trained so"},
)
