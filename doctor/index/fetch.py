"""Fetches one page of a package index. Whatever the network does, the result is an answer."""

from __future__ import annotations

import errno
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from doctor.errors import Unknown
from doctor.index.cache import Answer
from doctor.index.page import ACCEPT, read_page
from doctor.text.quantities import memory

if TYPE_CHECKING:
    import requests

LARGEST = 32 << 20
"""Bytes of a page that are read; known pages have a few hundred thousand, some a few million."""
CHUNK = 1 << 16
PACKINGS = ("gzip", "deflate")
NO_ADDRESS = "no valid address"


def fetch(url: str, project: str, seconds: float, limit: str) -> Answer:
    """The wheels of a project on a page, or in a few words why there is no answer.

    Proxies, certificates and passwords are taken from the environment, as requests does.

    Args:
        seconds: what is left of the time limit.
        limit: the whole of it in words, `2 s`.
    """
    # Imported here: 0.2 s that neither a start without network questions nor a cached answer shall pay.
    import requests
    import urllib3

    end = time.monotonic() + seconds
    try:
        with requests.get(
            url,
            headers={"Accept": ACCEPT, "Accept-Encoding": ", ".join(PACKINGS)},
            timeout=(seconds, seconds),
            stream=True,
        ) as response:
            if response.status_code == 404:
                return Answer()  # the index is there, and has no such project
            if response.status_code != 200:
                asked = response.status_code in (401, 407)
                return Answer(trouble=f"HTTP {response.status_code}", unsure=asked)
            body = _body(response, end)
            kind = response.headers.get("Content-Type", "")
        return Answer(tuple(read_page(body, kind, project)))
    except _Late:
        return Answer(trouble=f"no whole answer within {limit}", unsure=True)
    except Unknown as error:
        return Answer(trouble=str(error))
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        trouble = _trouble(error, limit)
        return Answer(trouble=trouble, unsure=trouble == _no_answer(limit))


class _Late(Exception):
    """The time is over, and the page not whole."""


def _body(response: requests.Response, end: float) -> bytes:
    body = bytearray()
    for piece in _pieces(response):
        body += piece
        if len(body) > LARGEST:
            raise _too_large()
        if time.monotonic() > end:
            raise _Late
    announced = response.headers.get("Content-Length", "")
    # urllib3 before 2.0 takes an answer that was cut for a whole one.
    if announced.isdigit() and response.raw.tell() < int(announced):
        raise Unknown("the connection broke off")
    packed = response.headers.get("Content-Encoding", "").lower() in PACKINGS
    return _unpacked(bytes(body)) if packed else bytes(body)


def _unpacked(body: bytes) -> bytes:
    """Unpacked when it is whole, and no further than a page may be.

    What urllib3 unpacks on the way ends too early where a first piece holds no more than gzip's own header.
    """
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        page = unpacking.decompress(body, LARGEST + 1)
    except zlib.error as error:
        raise Unknown("the answer cannot be unpacked") from error
    if len(page) > LARGEST:
        raise _too_large()
    if not unpacking.eof:
        raise Unknown("the connection broke off")
    return page


def _too_large() -> Unknown:
    return Unknown(f"the page is larger than {memory(LARGEST >> 20)}")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes in: who waits for a whole piece of a page that drips looks at no clock."""
    read = getattr(response.raw, "read1", None)
    if read is None:  # urllib3 before 2.3
        yield from response.raw.stream(CHUNK, decode_content=False)
        return
    while piece := read(CHUNK, decode_content=False):
        yield piece


def _no_answer(limit: str) -> str:
    return f"no answer within {limit}"


def _trouble(error: Exception, limit: str) -> str:
    """The layer at fault, found in the causes of an error of requests."""
    causes = list(_causes(error))
    if any(getattr(c, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH) for c in causes):
        return "network unreachable"
    for kinds, words in _layers(limit):
        found = next((cause for cause in causes if isinstance(cause, kinds)), None)
        if found is not None:
            # OpenSSL says it best: `certificate has expired`, `self-signed certificate`.
            return f"TLS: {said}" if (said := getattr(found, "verify_message", "")) else words
    return NO_ADDRESS


def _layers(limit: str) -> Iterator[tuple[tuple[type[BaseException], ...], str]]:
    """Kinds of errors, and what they mean. The first that fits counts, so that the cause comes before its results."""
    from requests import exceptions as r
    from urllib3 import exceptions as u

    yield (r.InvalidURL, u.LocationValueError, UnicodeError), NO_ADDRESS
    yield (r.ProxyError, u.ProxyError), "the proxy refuses or does not answer"
    yield (ssl.SSLCertVerificationError,), "TLS: certificate not trusted"
    yield (ssl.SSLError, r.SSLError), "TLS: no secure connection"
    yield (socket.gaierror,), "name not resolved"
    # Not the time-outs of urllib3: there, a refused connection counts as one.
    yield (TimeoutError, r.Timeout), _no_answer(limit)
    yield (ConnectionRefusedError,), "connection refused"
    yield (r.TooManyRedirects,), "it redirects in a circle"
    yield (r.ContentDecodingError,), "the answer cannot be unpacked"
    yield (r.ConnectionError, u.HTTPError, ConnectionError), "the connection broke off"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, also where urllib3 carries it as an argument."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        cause = todo.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        todo += [cause.__cause__, cause.__context__]
        todo += [item for item in cause.args if isinstance(item, BaseException)]
