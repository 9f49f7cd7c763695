"""The embedded broker's messages are whole or not there, whatever its folder holds."""

import threading
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection

from service.broker import QUEUE, celery_config
from service.file_broker import TRANSPORT
from service.settings import Settings


def _channel(root: Path) -> Any:
    options = celery_config(Settings(data_dir=root))["broker_transport_options"]
    return Connection("filesystem://", transport=TRANSPORT, transport_options=options).channel()


def _folder(root: Path) -> Path:
    return root / "broker" / "queue"


def test_a_reader_that_polls_while_messages_are_written_takes_each_of_them_once_and_whole(tmp_path: Path) -> None:
    writer, reader = _channel(tmp_path), _channel(tmp_path)
    sent = [{"body": f"{number}" * 2_000} for number in range(300)]
    thread = threading.Thread(target=lambda: [writer._put(QUEUE, each) for each in sent])
    thread.start()
    taken: list[Any] = []
    while thread.is_alive() or any(_folder(tmp_path).iterdir()):
        try:
            taken.append(reader._get(QUEUE))
        except Empty:
            continue
    thread.join()
    assert sorted(taken, key=str) == sorted(sent, key=str)


@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff\xfe"])
def test_a_file_that_holds_no_message_is_passed_over(tmp_path: Path, rubbish: bytes) -> None:
    channel = _channel(tmp_path)
    (_folder(tmp_path) / f"0_rubbish.{QUEUE}.msg").write_bytes(rubbish)
    channel._put(QUEUE, {"body": "job"})
    assert channel._get(QUEUE) == {"body": "job"}
    with pytest.raises(Empty):
        channel._get(QUEUE)


def test_a_message_half_written_is_not_taken(tmp_path: Path) -> None:
    channel = _channel(tmp_path)
    (_folder(tmp_path) / f".0_unfinished.{QUEUE}.msg").write_text("{")
    with pytest.raises(Empty):
        channel._get(QUEUE)


def test_both_sides_speak_by_this_transport_where_no_broker_is_named(tmp_path: Path) -> None:
    assert celery_config(Settings(data_dir=tmp_path))["broker_transport"] == TRANSPORT
