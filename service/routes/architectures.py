"""/v1/architectures: the networks that a model can be registered with."""

from fastapi import APIRouter

from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.recipe import Recipe
from service.deps import needs
from service.schemas.catalogue import ArchitectureOut

router = APIRouter(prefix="/v1", tags=["catalogue"], dependencies=[needs("models:read")])


@router.get("/architectures", operation_id="list_architectures")
def architectures() -> dict[str, list[ArchitectureOut]]:
    """Return every network with its task, the images it takes, its options, and the recipe that goes without saying."""
    return {
        "items": [
            ArchitectureOut(
                id=spec.id,
                title=spec.title,
                task=spec.task,
                summary=spec.summary,
                min_image_size=spec.min_image_size,
                image_sizes=list(spec.sizes) or None,
                options=spec.options.model_json_schema(),
                recipe=Recipe.model_validate(spec.recipe).model_dump(mode="json"),
            )
            for spec in ARCHITECTURES.values()
        ]
    }
