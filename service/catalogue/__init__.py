"""What can be asked for: recipes, architectures, methods and metrics, as data.

Pure pydantic: imports neither torch nor numpy, so that the HTTP side can use it.
"""
