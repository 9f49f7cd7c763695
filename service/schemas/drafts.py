"""A body that need not fit its schema: with the schema's faults, so that the rest of it can be judged too.

A route that takes a plain model is never called for a body with a fault, and tells of no other; one that takes a
`Draft` refuses the body itself, with all that is wrong.
"""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from service.errors import Fault
from service.problems import validation_faults

M = TypeVar("M", bound=BaseModel)


class Draft(Generic[M]):
    """What came for a model of type M, and is described as one. ``read``: None where there are ``faults``."""

    # no dataclass: of a generic one pydantic makes a schema of its own accord
    def __init__(self, *, read: M | None, given: Mapping[str, Any], faults: tuple[Fault, ...] = ()) -> None:
        self.read = read
        self.given = given
        self.faults = faults

    def sure(self, field: str) -> Any:
        """Return what was given for the field, None where it was left out or has a fault."""
        at = f"/{field}"
        faulty = any(fault.pointer == at or fault.pointer.startswith(f"{at}/") for fault in self.faults)
        return None if faulty else self.given.get(field)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(cls._of, handler(get_args(source)[0]))

    @classmethod
    def _of(cls, given: Any, read: ValidatorFunctionWrapHandler) -> "Draft[M]":
        try:
            return cls(read=read(given), given=given)
        except ValidationError as error:
            if not isinstance(given, Mapping):
                raise  # nothing is left to judge
            return cls(read=None, given=given, faults=tuple(validation_faults(error.errors())))


def readable_part(kind: type[M], given: Mapping[str, Any]) -> M | None:
    """Return the model without the fields that have a fault; None where those that are left make none either."""
    left = dict(given)
    while True:
        try:
            return kind.model_validate(left)
        except ValidationError as error:
            faulty = {found["loc"][0] for found in error.errors() if found["loc"]} & left.keys()
            if not faulty:
                return None
            left = {name: value for name, value in left.items() if name not in faulty}
