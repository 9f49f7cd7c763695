"""From an API key to a principal with scopes."""

from dataclasses import dataclass

from service.errors import Forbidden

AREAS = ("datasets", "models", "requests", "weights", "audit")
_OF_AREAS = (f"{area}:{mode}" for area in AREAS for mode in ("read", "write"))
SCOPES = frozenset({"admin", "metrics:read", *AREAS, *_OF_AREAS})


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who is asking. ``datasets`` means both reading and writing; ``admin`` means everything."""

    id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return bool(self.scopes & {"admin", scope, scope.partition(":")[0]})

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the principal has the scope."""
        if not self.may(scope):
            raise Forbidden(f"This needs the scope {scope!r}; the key has: {', '.join(sorted(self.scopes))}.")
