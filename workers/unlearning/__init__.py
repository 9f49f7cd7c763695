"""The unlearning methods by name: one method, one file, one paper."""
