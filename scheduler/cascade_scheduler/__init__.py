"""The scheduler of Cascade Dist."""
