"""TLS: contexts of both sides, made from the settings and the texts of their files."""
