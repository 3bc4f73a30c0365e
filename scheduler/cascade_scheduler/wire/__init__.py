"""Between generated messages and the core's own values.

The only room besides the service files that touches messages of `cascade_dist.v1`. Nothing in here waits,
and nothing in here looks inside a user's bytes.
"""
