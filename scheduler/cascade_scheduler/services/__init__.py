"""The gRPC services: each reads its peer's messages, posts events to the turn, and keeps its peer's books."""
