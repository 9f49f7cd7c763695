"""The README's commands, run as printed against a live service."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import running

README = (Path(__file__).parents[2] / "README.md").read_text()
NEEDED = ("curl", "sha256sum", "sh")


def _example() -> str:
    found = re.search(r"<!-- api by example -->\n```sh\n(.*?)```", README, re.DOTALL)
    if found is None:
        raise ValueError("the README has no API example")
    return found.group(1)


@pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"the README's commands need {', '.join(NEEDED)}")
def test_the_readmes_commands_work_as_printed(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        place = tmp_path / "reader"
        place.mkdir()
        (place / "python3").symlink_to(sys.executable)
        (place / ".venv").symlink_to(Path(sys.prefix))
        env = {**os.environ, "API": stack.base_url, "KEY": stack.key("admin"), "PATH": f"{place}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", _example()], cwd=place, env=env, capture_output=True, text=True, timeout=120)
        said = done.stdout
        assert done.returncode == 0, f"{said[-3000:]}\n{done.stderr[-2000:]}\n{stack.log.read_text()[-3000:]}"
        assert "weights.safetensors: OK" in said
        assert "\n410\n" in said
        assert "event: published" in said
        assert "relearning_delay forget" in said
        assert '"action":"request.completed"' in said
        assert re.search(r"(?m)^verified", said, re.IGNORECASE)
