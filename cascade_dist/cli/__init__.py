"""The command ``cascade``, for people."""
