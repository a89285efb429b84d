"""Direct PostgreSQL, PgBouncer and poolproxy side by side: ``python -m benchmarks``."""
