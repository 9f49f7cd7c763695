"""A thread that dies by an error nobody caught leaves one structured line, without the message."""

import json
import subprocess
import sys

import pytest

BEGIN = """
import sys, threading
from service import last_words, logs
logs.configure("info")
last_words.of_threads()
def die(): raise {raised}
class Dying:
    def __del__(self): die()
"""
SECRET = "patient-4711"


def _said(raised: str, then: str) -> str:
    code = BEGIN.format(raised=raised) + then
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == ""
    assert SECRET not in found.stderr
    return found.stderr


@pytest.mark.parametrize(
    ("then", "action"),
    [
        ("thread = threading.Thread(target=die, name='t'); thread.start(); thread.join()", "thread.broken"),
        ("Dying()", "error.ignored"),
    ],
)
def test_an_error_that_nobody_caught_is_one_line_with_its_type_and_place(then: str, action: str) -> None:
    [text] = _said(f"ValueError('{SECRET}')", then).splitlines()
    line = json.loads(text)
    assert (line["action"], line["error"]) == (action, "ValueError")
    assert "die" in line["trace"][0]


def test_a_thread_that_leaves_says_nothing() -> None:
    assert _said("SystemExit(0)", "thread = threading.Thread(target=die); thread.start(); thread.join()") == ""
