"""Immutable bytes by content id: large arguments, large functions, published results."""
