"""What is remembered of runs, so that results outlive the process that made them."""
