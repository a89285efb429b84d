"""Settings: attrs classes are the table, everything else is derived from them. Pure."""
