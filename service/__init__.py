"""The HTTP side and the store. Imports neither torch, numpy nor the workers."""
