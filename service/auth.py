"""From an API key to a principal with scopes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.errors import Forbidden

AREAS = ("datasets", "models", "requests", "weights", "audit", "approvals", "suppressions", "webhooks")
_OF_AREAS = (f"{area}:{mode}" for area in AREAS for mode in ("read", "write"))
SCOPES = frozenset({"admin", "metrics:read", *AREAS, *_OF_AREAS})


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who is asking. ``datasets`` means both reading and writing; ``admin`` means everything.

    ``quotas``: those of the key itself, in place of the settings'.
    """

    id: str
    name: str
    scopes: frozenset[str]
    quotas: Mapping[str, int] = field(default_factory=dict)

    def may(self, scope: str) -> bool:
        return bool(self.scopes & {"admin", scope, scope.partition(":")[0]})

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the principal has the scope."""
        if not self.may(scope):
            raise Forbidden(f"This needs the scope {scope!r}; the key has: {', '.join(sorted(self.scopes))}.")
