"""Nothing is left behind on a full disk by what looks whether it is full, and by what would have been a file."""

from pathlib import Path

import pytest
from kombu import Connection

from service.artifacts import ArtifactStore
from service.file_broker import Transport
from service.settings import key_file
from tests.no_room import no_room


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_a_look_at_a_full_store_leaves_no_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with no_room():
        assert not store.writable()
        with pytest.raises(OSError, match="File too large"):
            store.probe()
    assert _files(tmp_path) == []
    assert store.writable()


def test_a_key_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    with no_room(), pytest.raises(OSError, match="File too large"):
        key_file(tmp_path / "master.key")
    assert _files(tmp_path) == []
    made = key_file(tmp_path / "master.key")
    with no_room():
        assert key_file(tmp_path / "master.key") == made, "one that is there is read"


def test_a_message_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    options = {f"data_folder_{way}": str(tmp_path) for way in ("in", "out")} | {"control_folder": str(tmp_path)}
    with Connection("filesystem://", transport=Transport, transport_options=options) as connection:
        channel = connection.default_channel
        with no_room(), pytest.raises(OSError, match="File too large"):
            channel._put("bell", {"body": "x"})
        assert _files(tmp_path) == []
