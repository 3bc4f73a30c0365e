"""Between Python objects and the bytes that travel.

Nothing in here knows gRPC or protobuf, so executors import it freely.
"""
