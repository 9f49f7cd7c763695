"""Keeps one stack between cells: a new one is started where another is asked for, or the last cell failed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.crash.cells import Place
from tests.crash.stacks import CrashStack, running


class Shelf:
    """One stack at a time, since each has processes that cost memory."""

    def __init__(self, request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> None:
        self._request, self._folders = request, folders
        self._opened = ExitStack()
        self._stack: CrashStack | None = None

    @classmethod
    @contextmanager
    def open(cls, request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> "Iterator[Shelf]":
        found = cls(request, folders)
        try:
            yield found
        finally:
            found._drop()

    @contextmanager
    def stack(self, place: Place) -> Iterator[CrashStack]:
        """Yield a stack of the kind; after a cell that failed it is used no more."""
        if self._stack is None or self._stack.place != place:
            self._drop()
            self._stack = self._opened.enter_context(running(place, self._folder(), self._postgres(place)))
        try:
            yield self._stack
        except BaseException:
            print(self._stack.stack.log.read_text()[-6000:])
            self._drop()
            raise

    def _drop(self) -> None:
        self._stack = None
        self._opened.close()
        self._opened = ExitStack()

    def _folder(self) -> Path:
        return self._folders.mktemp("crash")

    def _postgres(self, place: Place) -> str | None:
        return str(self._request.getfixturevalue("postgres_url")) if place == Place.SERVERS else None
