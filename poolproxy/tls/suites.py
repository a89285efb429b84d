"""Choosing the cipher suites of TLS 1.3.

:mod:`ssl` can do that from Python 3.15 on. Before, OpenSSL's own function is called by :mod:`ctypes`, on the
pointer that CPython keeps behind the head of an SSLContext. That it does is nowhere promised, so it is
proven before it is relied on: by :func:`prove`, in a process that may crash. And what came of it is read
back by the public way, never believed.
"""

from __future__ import annotations

import ctypes
import ssl
import subprocess
import sys
from functools import cache

PROOF_SECONDS = 30.0
V1_3 = "TLSv1.3"


class NoChoice(Exception):
    """Suites can't be chosen here."""


class UnknownSuite(Exception):
    """OpenSSL does not have what is asked for; the text is the first of those."""


def choose(context: ssl.SSLContext, suites: str) -> None:
    """Allow these suites of TLS 1.3 only, in this order; ``suites`` are their names with colons between.

    Raises NoChoice, UnknownSuite. Before Python 3.15 only after :func:`prove`, in this process or in
    the one that has started it.
    """
    wanted = suites.split(":")
    if hasattr(context, "set_ciphersuites"):
        try:
            context.set_ciphersuites(suites)
        except ssl.SSLError:
            raise UnknownSuite(suites) from None
    else:
        _set(context, suites)
    found = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == V1_3]
    if found != wanted:
        # OpenSSL passes over what it does not know, and may refuse the whole list for it.
        raise UnknownSuite(next((name for name in wanted if name not in found), suites))


@cache
def prove() -> None:
    """See whether :func:`choose` can work with this Python; raises NoChoice.

    Takes some tens of milliseconds, and a process.
    """
    if hasattr(ssl.SSLContext, "set_ciphersuites"):
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROOF_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoChoice(str(error)) from error
    if done.returncode or done.stdout.decode().strip() != _PROVEN:
        raise NoChoice("the layout of this Python's SSLContext is another one")


_PROVEN = "suites can be chosen"


def _set(context: ssl.SSLContext, suites: str) -> None:
    openssl = _openssl()
    pointer = _pointer(context)
    if openssl.SSL_CTX_get_options(pointer) != int(context.options):
        raise NoChoice("the layout of this Python's SSLContext is another one")
    openssl.SSL_CTX_set_ciphersuites(pointer, suites.encode("ascii", "replace"))
    # What it complains of must not be found by the next call of somebody else; the result is read back.
    openssl.ERR_clear_error()


def _pointer(context: ssl.SSLContext) -> int:
    """The SSL_CTX: the first member of PySSLContext, in Modules/_ssl.c from Python 3.2 to 3.14."""
    if sys.implementation.name != "cpython":
        raise NoChoice("this is not CPython")
    found = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    if found is None:
        raise NoChoice("the layout of this Python's SSLContext is another one")
    return found


@cache
def _openssl() -> ctypes.CDLL:
    """The OpenSSL with which :mod:`ssl` is linked, whatever others this machine has."""
    import _ssl

    # A symbol is looked for in the module and in what it is linked with, in this order.
    library = ctypes.CDLL(getattr(_ssl, "__file__", None))
    try:
        library.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
        library.SSL_CTX_get_options.restype = (
            ctypes.c_uint64 if ssl.OPENSSL_VERSION_INFO >= (3,) else ctypes.c_ulong
        )
        library.SSL_CTX_set_ciphersuites.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.SSL_CTX_set_ciphersuites.restype = ctypes.c_int
        library.ERR_clear_error.argtypes = []
        library.ERR_clear_error.restype = None
    except AttributeError as error:
        raise NoChoice(str(error)) from error
    return library


def _proof() -> None:
    """In a process of its own: options that are ours alone are found again, and suites do change."""
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        for option in (ssl.OP_NO_TICKET, ssl.OP_NO_RENEGOTIATION, ssl.OP_CIPHER_SERVER_PREFERENCE):
            context.options ^= option
            if _openssl().SSL_CTX_get_options(_pointer(context)) != int(context.options):
                raise SystemExit(1)
        usual = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == V1_3]
        for suites in (usual[-1:], usual[::-1]):
            choose(context, ":".join(suites))


if __name__ == "__main__":
    _proof()
    print(_PROVEN)
