"""Names the plugins; what they do stands in tests/fixtures."""

pytest_plugins = (
    "tests.fixtures.needs",
    "tests.fixtures.postgres",
    "tests.fixtures.proxy",
    "tests.fixtures.tls",
    "tests.fixtures.services",  # uses the one before
)
