"""What a look found, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report. ``todo`` is empty where there is nothing to do."""

    level: Level
    part: str
    found: str
    todo: str = ""

    @classmethod
    def ok(cls, part: str, found: str) -> "Finding":
        return cls(level=Level.OK, part=part, found=found)

    @classmethod
    def warning(cls, part: str, found: str, todo: str) -> "Finding":
        return cls(level=Level.WARNING, part=part, found=found, todo=todo)

    @classmethod
    def fault(cls, part: str, found: str, todo: str) -> "Finding":
        return cls(level=Level.FAULT, part=part, found=found, todo=todo)

    @property
    def line(self) -> str:
        return f"{self.level:<8}{self.part}: {self.found}" + (f" -> {self.todo}" if self.todo else "")
