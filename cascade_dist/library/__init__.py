"""Ready tasks, and tools around targets."""
