"""The settings of the proxy by their sections, see ``settings.schema``."""
