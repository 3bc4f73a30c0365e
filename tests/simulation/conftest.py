"""In CI the same programs are drawn every time; elsewhere others each time."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("oracle-ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("oracle", deadline=None)
settings.load_profile("oracle-ci" if os.environ.get("CI") else "oracle")
