"""One script per figure in the README. Each prints JSON and exits non-zero when its target is missed."""
