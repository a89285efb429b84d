"""A private PostgreSQL for an hour: the launcher, and the demo built on it."""
