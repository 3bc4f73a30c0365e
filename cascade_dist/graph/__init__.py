"""From a target to a graph."""
