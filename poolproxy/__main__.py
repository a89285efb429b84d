"""``python -m poolproxy`` is the command ``poolproxy``."""

from poolproxy.cli import main

main(prog_name="poolproxy")
