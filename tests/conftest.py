"""Fixtures every test may ask for."""

import os

# Before torch is loaded, here or in a process that a test starts: nets this small only wait for each other on
# several threads, and the suite runs in several processes already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests start the service a hundred times; each start would compile all of it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest_plugins = ["tests.plugin_servers", "tests.plugin_stores"]
