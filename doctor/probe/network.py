"""What can be reached: package index, PyTorch's wheels, the hub, and their mirrors, all at once."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from doctor.errors import Unknown
from doctor.facts import Endpoint, Network
from doctor.knowledge.tables import Tables
from doctor.machine.background import Background
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.probe.host.host import pip_index, uv_index
from doctor.text.built_in_index import DEFAULT_URL
from doctor.text.credentials import PRIVATE, is_public

SECONDS = 5.0
"""Who answers later is of no use; who answers within it is slow at worst."""


@dataclass(frozen=True)
class Address:
    """An address to ask, under a name for people."""

    name: str
    kind: str
    url: str


def probe(system: System, tables: Tables, env: PythonEnvironment | None) -> Network:
    """Ask every address once, all at the same time; none has more than `SECONDS`.

    Raises:
        Unknown: below a root, which has no network of its own.
    """
    if not system.live:
        raise Unknown("a tree below --root has no network")
    questions = [
        *python_index(system, env),
        *(
            Address(row["name"], row["kind"], row["url"] + row.get("probe", ""))
            for row in tables.rows("mirrors", "endpoint")
        ),
    ]
    hub = system.env.get("HF_ENDPOINT")
    if hub:
        questions.insert(1, Address("HF_ENDPOINT", "hub", hub))
    calls = [Background(partial(ask, question), question.name) for question in questions]
    end = time.monotonic() + SECONDS + 0.5
    return Network(
        endpoints=tuple(
            _answer(question, call, max(0.0, end - time.monotonic()))
            for question, call in zip(questions, calls, strict=True)
        )
    )


def _answer(question: Address, call: Background[Endpoint], seconds: float) -> Endpoint:
    try:
        return call.result(seconds)
    except Unknown:
        return _endpoint(question, f"no answer within {SECONDS:.0f} s", None)


def _endpoint(question: Address, trouble: str | None, latency: float | None) -> Endpoint:
    return Endpoint(
        name=question.name,
        kind=question.kind,
        host=_host(question),
        reachable=trouble is None,
        latency=latency,
        trouble=trouble,
    )


def python_index(system: System, env: PythonEnvironment | None) -> list[Address]:
    """The index that uv or pip is set to, else the one that the installed pip has built in."""
    for ask, tool in ((uv_index, "uv"), (pip_index, "pip")):
        try:
            url = ask(system)
        except Unknown:
            continue
        if url:
            return [Address(f"{tool}'s index", "python", f"{url.rstrip('/')}/pip/")]
    pip = env.find_module("pip") if env else None
    if pip is None:
        return []
    match = DEFAULT_URL.search(system.text(f"{pip.path}/_internal/models/index.py") or "")
    if match is None:
        return []
    url = f"{match.group(1).rstrip('/')}/simple/pip/"
    return [Address("the default Python index", "python", url)]


def _host(question: Address) -> str:
    """Host of a question; that of pip's own default is left to pip."""
    if question.name.startswith("the default"):
        return ""
    try:
        host = urlsplit(question.url).hostname or ""
        own = host == "localhost" or host.startswith("127.")
        return host if own or is_public(question.url) else PRIVATE
    except ValueError:
        return ""


def ask(question: Address) -> Endpoint:
    """Ask one address and say how it went, in words that name the layer at fault."""
    import requests

    start = time.monotonic()
    trouble: str | None
    try:
        answer = requests.get(
            question.url, timeout=(SECONDS, SECONDS), stream=True, allow_redirects=True
        )
        answer.close()
        trouble = _status_trouble(answer.status_code)
    except requests.exceptions.ProxyError:
        trouble = "the proxy refuses or does not answer"
    except requests.exceptions.SSLError as error:
        expired = "expired" in str(error)
        trouble = "TLS: the certificate has expired" if expired else "TLS: certificate not trusted"
    except requests.exceptions.Timeout:
        trouble = f"no answer within {SECONDS:.0f} s"
    except requests.exceptions.ConnectionError as error:
        trouble = _connection_trouble(str(error))
    except requests.exceptions.TooManyRedirects:
        trouble = "it redirects in a circle"
    except (requests.exceptions.RequestException, ValueError) as error:
        trouble = f"no valid address ({type(error).__name__})"
    return _endpoint(question, trouble, round(time.monotonic() - start, 3))


def _status_trouble(status: int) -> str | None:
    """Whether an answer means that the service can be used; a missing page still does."""
    if status == 407:
        return "the proxy asks for a password (407)"
    if status in (401, 403):
        return f"access refused ({status})"
    return f"the server answers {status}" if status >= 500 or status == 429 else None


def _connection_trouble(text: str) -> str:
    if re.search(r"name resolution|Name or service|getaddrinfo|nodename", text):
        return "its name does not resolve"
    if "refused" in text:
        return "the connection was refused"
    if "unreachable" in text:
        return "the network is unreachable"
    return "the connection broke off"
