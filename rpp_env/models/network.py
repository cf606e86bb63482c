"""Network settings of a model server: address, proxy, trusted certificates and API key.

Every setting of the environment is followed, or refused with a message; none is ignored: a proxy
(``http_proxy``, ``https_proxy``, ``all_proxy``, in either case, and ``no_proxy``), certificates
(``SSL_CERT_FILE``, ``SSL_CERT_DIR``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``) and hosts that may
get the key (``RPP_ENV_KEY_HOSTS``).
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from rpp_env.errors import InvalidOption, MissingExtra

__all__ = [
    "KEY",
    "KEY_HOSTS",
    "Key",
    "Proxy",
    "certificates",
    "checked_address",
    "is_local",
    "keeper",
    "key_may_go",
    "proxy_for",
    "sendable",
    "shorten",
]

KEY = "OPENAI_API_KEY"
"""The environment variable with the API key."""
KEY_HOSTS = "RPP_ENV_KEY_HOSTS"
"""The environment variable that lists hosts which may get the key, even if a file names them."""
CERTIFICATE_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables that name a file of trusted authorities; the first one set is used."""
PROXIES = {"http", "https", "socks5", "socks5h"}
"""Schemes of proxies that httpx supports."""

Key = Callable[[], str]
"""A function that returns the key; "" if there is none."""


def shorten(text: str, length: int) -> str:
    """Return `text` on one line, with printable characters only, cut to that length."""
    # Only the front of a long text is processed: a server's text may have any length.
    front = text[: 8 * length]
    front = " ".join("".join(c if c.isprintable() else " " for c in front).split())
    cut = len(front) > length or len(text) > 8 * length
    return f"{front[: length - 4]} ..." if cut else front


# Addresses


def checked_address(base_url: str) -> str:
    """Return the address without a slash at its end.

    Raises
    ------
    InvalidOption
        For an invalid address, or one that contains a password.
    """
    if "@" in base_url:
        raise InvalidOption(
            "the server's address contains a name or password, which would show in logs: set "
            f"{KEY} instead"
        )
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")  # raises for a name that cannot be looked up
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or not base_url.isprintable() or " " in base_url:
        raise InvalidOption(
            f"{shorten(base_url, 200)!r} is not an address of a server: give one such as "
            "'http://127.0.0.1:8000/v1'"
        )
    return base_url.rstrip("/")


def is_local(host: str) -> bool:
    """Return whether a host is this machine, so that nothing leaves it on the way there."""
    host = _bare(host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        # 0.0.0.0 is printed by servers that listen everywhere; calling it reaches this machine.
        return address.is_loopback or address.is_unspecified
    return False


def _bare(host: str) -> str:
    return host.strip("[]").partition("%")[0].rstrip(".").lower()


# The key


def keeper(api_key: str | None) -> Key:
    """Return a function that returns the given key, or else that of the environment."""

    def get_key() -> str:
        return (os.environ.get(KEY, "") if api_key is None else api_key).strip()

    return get_key


def sendable(key: Key) -> bool:
    """Return whether an HTTP header may hold the key."""
    return key().isascii() and key().isprintable()


def key_may_go(base_url: str, *, named: bool, plain_http: bool) -> bool:
    """Return whether the server at an address may get the key.

    Parameters
    ----------
    base_url : str
        The server's address.
    named : bool
        Whether the user named it in this call, rather than a file that may be untrusted. Else the
        host must be listed in the environment variable ``RPP_ENV_KEY_HOSTS``: hosts separated by
        commas, each with a port or for all of its ports, ``*.`` before a domain for all hosts in
        it. ``http://`` before a host lets the key go there over plain HTTP.
    plain_http : bool
        Whether it may be sent over plain HTTP to another machine.

    Raises
    ------
    InvalidOption
        If the key may be sent, but only over plain HTTP, which is not allowed.
    """
    address = urlsplit(base_url)
    entries = [e for e in re.split(r"[,\s]+", os.environ.get(KEY_HOSTS, "")) if e]
    listed = [entry for entry in entries if _lists(entry, address)]
    if not (named or listed):
        return False
    safe = address.scheme == "https" or is_local(address.hostname or "")
    if safe or plain_http or any(entry.startswith("http://") for entry in listed):
        return True
    place = f"{address.scheme}://{address.netloc}"
    raise InvalidOption(
        f"the key ({KEY}) would go to {place} over plain HTTP, where anyone on the way can read "
        "it. Use https, or a tunnel to this machine (ssh -L 8000:localhost:8000 HOST); unset the "
        f"variable if this server needs no key; or allow it: {KEY_HOSTS}={place} in the "
        "environment, or plain_http_key=True among the model's options"
    )


def _lists(entry: str, address: SplitResult) -> bool:
    """Whether an entry of the allow-list matches the host of an address."""
    try:
        parts = urlsplit(entry if "://" in entry else f"//{entry}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"", "http", "https"} or "@" in entry:
        raise InvalidOption(
            f"{KEY_HOSTS} holds {shorten(entry, 80)!r}, which is not a host: give hosts such as "
            "'api.example.com', 'gpu.example.com:8000' or 'http://gpu.lan:8000', with commas "
            "between them"
        )
    ours = address.port or (443 if address.scheme == "https" else 80)
    if parts.scheme not in {"", address.scheme} or port not in {None, ours}:
        return False
    asked, host = _bare(address.hostname or ""), _bare(host)
    return asked.endswith(host[1:]) if host.startswith("*.") else asked == host


# Proxies


@dataclass(frozen=True)
class Proxy:
    """The proxy on the way to a server."""

    url: Callable[[], str]
    """Its address, possibly with a password: never print it."""
    shown: str
    """The address without the password, and the setting that named it."""


def proxy_for(base_url: str) -> Proxy | None:
    """Return the environment's proxy for an address; None on the way to this machine itself.

    Raises
    ------
    InvalidOption
        For an invalid proxy, or one of an unsupported kind.
    MissingExtra
        For a SOCKS proxy without the library that it needs.
    """
    address = urlsplit(base_url)
    host = address.hostname or ""
    kind = next((kind for kind in (address.scheme, "all") if _named(kind)), None)
    port = address.port or (443 if address.scheme == "https" else 80)
    if kind is None or is_local(host) or _bypassed(host, port, _named("no")):
        return None
    scheme, shown = _described(_named(kind))
    variable = _variable(kind)
    if scheme not in PROXIES:
        raise InvalidOption(
            f"{variable} names {shown} as proxy, which is of no supported kind: give "
            "http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT, unset it, or name the "
            "server's host in NO_PROXY"
        )
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise MissingExtra(f"socksio, which the proxy {shown} ({variable}) needs,", "socks")
    return Proxy(partial(_whole, kind), f"{shown} ({variable})")


def _named(kind: str) -> str:
    """Return the environment's, or else the system's, setting for a kind of proxy.

    It may contain a password, so callers that raise must not keep it in a variable.
    """
    return getproxies().get(kind, "").strip()


def _described(value: str) -> tuple[str, str]:
    """Return a proxy's scheme ("" if invalid), and the proxy without a password."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        return "", "an invalid address"
    return parts.scheme, f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _whole(kind: str) -> str:
    value = _named(kind)
    # In both forms the proxy looks names up; httpx 0.27 knows the first one only.
    value = value.replace("socks5h://", "socks5://", 1)
    return value if "://" in value else f"http://{value}"


def _variable(kind: str) -> str:
    """Return the name of the variable that named a proxy, as it is spelled there."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def _bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Whether an entry of NO_PROXY matches a host: by name, domain, address or network."""
    host = _bare(host)
    return any(_means(entry, host, port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _means(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    entry = entry.partition("://")[2] or entry
    # An IPv6 address has a port only behind its brackets.
    named, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdecimal() and (":" not in named or named.endswith("]")):
        return int(wanted) == port and _means(named, host, port)
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
        with suppress(ValueError):
            return ipaddress.ip_address(host) in network
        return False
    domain = _bare(entry.removeprefix("*").lstrip("."))
    return domain != "" and (host == domain or host.endswith(f".{domain}"))


# Certificates


def certificates() -> ssl.SSLContext | None:
    """Return the trusted authorities that the environment names; None if it names none.

    Raises
    ------
    InvalidOption
        For a file or folder that is missing, or holds no certificate.
    """
    variable = next((name for name in CERTIFICATE_FILES if os.environ.get(name)), None)
    folders = os.environ.get("SSL_CERT_DIR")
    if variable is None and not folders:
        return None
    # Checks certificates and host names, but trusts no authority yet.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if variable is not None:
        _load(context, variable, Path(os.environ[variable]))
    for folder in filter(None, (folders or "").split(os.pathsep)):
        _load(context, "SSL_CERT_DIR", Path(folder))
    return context


def _load(context: ssl.SSLContext, variable: str, path: Path) -> None:
    fault = "" if path.exists() else "which does not exist"
    if not fault:
        try:
            folder = path.is_dir()
            context.load_verify_locations(
                cafile=None if folder else str(path), capath=str(path) if folder else None
            )
            if folder and not any(path.iterdir()):
                fault = "which is empty"
        except ssl.SSLError:
            fault = "which holds no certificate in PEM format"
        except OSError as error:
            fault = f"which cannot be read ({error.strerror})"
    if fault:
        raise InvalidOption(
            f"{variable} names {shorten(str(path), 200)!r}, {fault}: correct it, or unset it to "
            "trust the usual authorities"
        )
