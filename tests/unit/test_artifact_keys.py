"""A key of the artifact store is a SHA-256 in hexadecimal; anything else names no file, wherever it points."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.artifacts import ArtifactStore
from service.errors import NotFound


@pytest.mark.parametrize(
    "key",
    [
        "", ".", "..", "../" * 21 + "x", "/etc/passwd", "a" * 63, "a" * 65, "A" * 64, "a" * 63 + "\n", "a" * 64 + "\n",
        "a" * 62 + "/x", "a" * 60 + "/../", "\x00" * 64, "а" * 64, "%2e%2e%2f" * 7 + "a", "٣" * 64,
    ],
    ids=ascii,
)  # fmt: skip
def test_a_key_that_is_no_digest_leads_nowhere(tmp_path: Path, key: str) -> None:
    store, outside = ArtifactStore(str(tmp_path / "store")), tmp_path / "outside"
    outside.write_text("kept")
    ways: list[Callable[[], object]] = [
        lambda: store.local_path(key),
        lambda: store.size(key),
        lambda: store.purge(key),
        lambda: store.fetch(key, tmp_path / "got"),
    ]
    for way in ways:
        with pytest.raises(NotFound):
            way()
    assert outside.read_text() == "kept"
    assert not (tmp_path / "got").exists()
