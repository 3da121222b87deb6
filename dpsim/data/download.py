"""A file from elsewhere, whole and verified or not at all; what has arrived before a break is not fetched again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from dpsim.data.files import digest_of
from dpsim.errors import ConfigError, DataError, SetupError

Report = Callable[[float, float | None], None]
"""Called with the bytes that are there, and how many there will be."""
_BLOCK: Final = 1 << 20
_TIMEOUT_S: Final = 60.0
ATTEMPTS: Final = 5
"""Breaks in a row, without a byte between them, after which a place is given up."""
_NETWORK: Final = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


class _Broken(Exception):
    """A connection that ended early."""


def download(urls: Sequence[str], target: Path, sha256: str | None = None, report: Report | None = None) -> str:
    """Fetch a file; return its SHA-256.

    Where the digest is known, what came before a break is kept, and the next call asks for the rest.

    Parameters
    ----------
    urls
        Places with the same file, tried in order: ``https://``, ``file://``, or ``http://`` if `sha256` is given.
    target
        Where it goes; its folder is made. A file that is there already is left if it is the one that is wanted.
    sha256
        What the content must be, 64 hexadecimal digits.
    report
        Told of the progress.

    Raises
    ------
    ConfigError
        If an address or the digest is not one.
    DataError
        If there is another file in the place of `target`, or what came is not what `sha256` says.
    SetupError
        If no place can be reached, or the file cannot be written.
    """
    wanted = _checked_digest(sha256)
    for url in urls:
        _check_scheme(url, wanted)
    if target.exists():
        return _there_already(target, wanted)
    part = target.with_name(f".{target.name}.{(wanted or _digest_of_text(urls[0]))[:12]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab+") as file:
            _lock(file, target)
            if target.exists():  # another process has just finished
                return _there_already(target, wanted)
            if not wanted:  # what came earlier may be of another version, and nobody would notice
                file.truncate(0)
            found = _fetch_any(urls, file, wanted, report)
            os.fsync(file.fileno())
            _put(part, target)
    except OSError as error:
        raise SetupError(f"cannot write {part}: {error.strerror or error}") from None
    return found


def _checked_digest(sha256: str | None) -> str:
    digest = (sha256 or "").lower().removeprefix("sha256:")
    if sha256 is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise ConfigError(f"the SHA-256 {sha256!r} must be 64 hexadecimal digits, as sha256sum prints them")
    return digest


def _check_scheme(url: str, sha256: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http", "file"):
        raise ConfigError(f"{url!r} is no address of a file: it begins with https:// or file://")
    if parts.scheme == "http" and not sha256:
        raise ConfigError(f"{url}: what comes over http may be anything; give its SHA-256, or take https")


def _there_already(target: Path, sha256: str) -> str:
    found = digest_of(target)
    if not sha256:
        raise DataError(f"{target} exists already (sha256 {found}): remove it, or name another file")
    if found != sha256:
        raise DataError(f"{target} exists already and is another file (sha256 {found}, not {sha256}): it is left alone")
    return found


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lock(file: BinaryIO, target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another process is fetching {target} at this moment: wait until it is there") from None


def _put(part: Path, target: Path) -> None:
    """Give the file its name, unless something else has it by now."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise DataError(f"{target} has appeared while it was fetched: it is left alone") from None
    except OSError:  # a file system without hard links
        part.rename(target)
    else:
        part.unlink()


def _fetch_any(urls: Sequence[str], file: BinaryIO, sha256: str, report: Report | None) -> str:
    """Fetch from the first place that works; return the digest of what came."""
    troubles = []
    for url in urls:
        try:
            _fetch(url, file, report)
        except (*_NETWORK, _Broken) as error:
            troubles.append(f"{url}: {_reason(error)}")
            continue
        file.flush()
        found = digest_of(Path(file.name))
        if not sha256 or found == sha256:
            return found
        file.truncate(0)  # nothing of it is worth keeping
        troubles.append(f"{url}: its content has sha256 {found}, not {sha256}")
    message = "; ".join(troubles)
    if all("sha256" in trouble for trouble in troubles):
        raise DataError(f"{message}: nothing of it was kept")
    raise SetupError(f"{message}: try again later, what has arrived is kept")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _fetch(url: str, file: BinaryIO, report: Report | None) -> None:
    """Append what is missing, over as many connections as it takes."""
    failed = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            for there, total in _receive(url, file, before):
                if report is not None:
                    report(there, total)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing behind what is there: it is whole, or it is not this file
                if error.headers.get("Content-Range", "").rpartition("/")[2] == str(before):
                    return
                file.truncate(0)
                continue
            if error.code < 500 and error.code != 429:
                raise
            trouble: Exception = error
        except (*_NETWORK, _Broken) as error:
            if isinstance(error, urllib.error.URLError) and url.startswith("file:"):
                raise
            trouble = error
        failed = 0 if file.seek(0, os.SEEK_END) > before else failed + 1
        if failed >= ATTEMPTS:
            raise trouble
        time.sleep(min(8.0, 0.25 * 2**failed))


def _receive(url: str, file: BinaryIO, begin: int) -> Iterator[tuple[int, int | None]]:
    """Append what one connection brings; yield the bytes that are there and the size of all."""
    headers = {"User-Agent": "dpsim"} | ({"Range": f"bytes={begin}-"} if begin else {})
    request = urllib.request.Request(url, headers=headers)
    with contextlib.closing(urllib.request.urlopen(request, timeout=_TIMEOUT_S)) as response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise ConfigError(f"{url} leads to {response.url}, which is not https: it is not fetched")
        if begin and (getattr(response, "status", None) != 206 or _first_byte(response) != begin):
            file.truncate(0)  # the server sends all of it
            begin = 0
        length = response.headers.get("Content-Length", "")
        total = begin + int(length) if length.isdigit() else None
        there = begin
        while block := response.read(_BLOCK):
            file.write(block)
            there += len(block)
            yield there, total
        file.flush()
    if total is not None and there < total:
        raise _Broken(f"the connection ended after {there:,} of {total:,} bytes")


def _first_byte(response: http.client.HTTPResponse) -> int:
    """Return where the part that is sent begins, -1 if that is not told."""
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1
