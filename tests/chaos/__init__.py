"""Everything at once: workers are killed and replaced, limits change, clients leave amid their queries.

``python -m tests.chaos [SECONDS [SEED]]`` runs it for longer than the test suite does. What it finds wrong is
an AssertionError; the seed that it prints makes the same choices again, though not at the same moments.
"""
