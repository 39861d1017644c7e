"""How fast, how exact and how large vector indexes are as they grow: ``python -m benchmarks.index``."""
