"""Load benchmark of the gateway against its peers; see `benchmarks.gateway.__main__`."""
