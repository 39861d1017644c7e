"""Benchmarks of the learning loop; see `benchmarks.learning.__main__`."""
