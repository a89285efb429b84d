"""The file with our process id, by which init scripts find us."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from poolproxy.errors import ConfigError, Mistake

log = logging.getLogger("poolproxy.acceptor")


class PidFile:
    """``path`` "" is no file. Whoever makes one calls :meth:`remove` at the end."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._written = False

    def claim(self) -> None:
        """Remove what a process has left that is gone. Raises ConfigError if one is alive."""
        if self._path is None:
            return
        try:
            pid = _read(self._path)
            if pid is None:
                return
            if pid != os.getpid() and _is_alive(pid):
                raise self._mistake(f"process {pid} is running; stop it, or set another pidfile")
            log.info("removing the stale pidfile %s", self._path)
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._mistake(f"can't be used: {error.strerror}") from error

    def write(self) -> None:
        """Create it. Raises ConfigError if that can't be, also if somebody else has just done so."""
        if self._path is None:
            return
        try:
            with open(self._path, "x", encoding="ascii") as file:
                self._written = True
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            raise self._mistake(f"can't be written: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it if it is ours."""
        if self._path is None or not self._written:
            return
        try:
            if _read(self._path) == os.getpid():
                self._path.unlink()
        except OSError as error:
            log.warning("could not remove the pidfile %s: %s", self._path, error.strerror)

    def _mistake(self, text: str) -> ConfigError:
        return ConfigError([Mistake(f"pidfile {self._path}", text)])


def _read(path: Path) -> int | None:
    """The process that it names, 0 if it names none; None if there is no file."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")[:20].strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isascii() and text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    if not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
