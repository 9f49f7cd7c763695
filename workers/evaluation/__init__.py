"""The metrics by family; the report runs them all."""
