"""The SHOW commands: a file each, or one for what belongs together. The rows are attrs classes."""
