"""The three kinds of runs; each takes an endpoint and gives a sample, or raises Unavailable."""
