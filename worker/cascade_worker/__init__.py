"""The worker of Cascade Dist."""
