"""Pretrained models that others publish and dpsim reads: where they lie, and the digests of their files.

Names, addresses and digests are those of DeePMD-kit 3.2.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dpsim.errors import ConfigError
from dpsim.native.cache import cache_root

if TYPE_CHECKING:
    from dpsim.data.download import Report

HUB: Final = "hub://"
"""Before the name of a pretrained model where a file could stand."""


class Pretrained(NamedTuple):
    """A published file."""

    filename: str
    sha256: str
    urls: tuple[str, ...]
    """Places with the same file, in the order in which they are tried."""


def _published(repository: str, file: str, sha256: str, filename: str = "") -> Pretrained:
    """Return a file of the DeepModeling community, which lies in three places."""
    hub = f"deepmodelingcommunity/{repository}/resolve/main/{file}?download=true"
    urls = (
        f"https://huggingface.co/{hub}",
        f"https://hf-mirror.com/{hub}",
        f"https://modelscope.cn/models/DeepModelingCommunity/{repository}/resolve/master/{file}",
    )
    return Pretrained(filename or file, sha256, urls)


PRETRAINED: Final = {
    "DPA-3.3-1M": _published(
        "DPA-3.3-1M", "DPA-3.3-1M.pt", "36fe440c111108d60cda54aa7d3fccac743794de25abef4d49564b9fb896a55b"
    ),
    "DPA-3.2-5M": _published(
        "DPA-3.2-5M", "DPA-3.2-5M.pt", "876354744aeaae17b2639a6a690514470273784f2b4836280850f50cbb799165"
    ),
    "DPA-3.1-3M": _published(
        "DPA-3.1-3M", "DPA-3.1-3M.pt", "86dd3a804d78ca5d203ebf98747e8f16dff9713ba8950097ceb760b161e19907"
    ),
    "DPA-2.4-7M": _published(
        "DPA-2.4-7M",
        "DPA-2.4-7M-patched-mt.pt",
        "904eb5560af9ff644347dedd3ebf1e9c97929d02ee37ce3cbe895de3df711198",
        "DPA-2.4-7M.pt",
    ),
    "DPA3-Omol-Large": _published(
        "DPA3-Omol-Large", "DPA3-Omol-Large.pt", "dc4d252b31450b41eb3546cc48f640ad0831c0b5d069ce27d996e0ff58fc037a"
    ),
}


def pretrained(name: str, sha256: str | None = None) -> Pretrained:
    """Return the published file of a name.

    Raises
    ------
    ConfigError
        If there is none, or it is not the one with this digest.
    """
    if name not in PRETRAINED:
        raise ConfigError(f"there is no pretrained model {name!r}: write one of {', '.join(PRETRAINED)}")
    found = PRETRAINED[name]
    if sha256 is not None and sha256.lower().removeprefix("sha256:") != found.sha256:
        raise ConfigError(f"{name} has sha256 {found.sha256}, not {sha256}: leave the digest out")
    return found


def hub_model(address: str) -> Pretrained:
    """Return the published file of ``hub://NAME`` or ``hub://NAME@sha256:DIGEST``.

    Raises
    ------
    ConfigError
        As `pretrained`.
    """
    name, _, digest = address.removeprefix(HUB).partition("@")
    return pretrained(name, digest or None)


def hub_file(address: str) -> Path:
    """Return where the file of ``hub://NAME`` lies on this machine, once it is fetched.

    Raises
    ------
    ConfigError
        As `pretrained`.
    """
    found = hub_model(address)
    return kept_model(found.sha256) / found.filename


def fetch_pretrained(address: str, report: Report | None = None) -> Path:
    """Return the file of ``hub://NAME``, fetched if it is not on this machine yet.

    Parameters
    ----------
    report
        As in `dpsim.data.download.download`.

    Raises
    ------
    ConfigError
        As `pretrained`.
    DataError, SetupError
        As `dpsim.data.download.download`.
    """
    from dpsim.data.download import download

    target, known = hub_file(address), hub_model(address)
    if not target.exists():
        download(known.urls, target, known.sha256, report)
    return target


def is_kept(path: Path) -> bool:
    """Whether a file is among the fetched ones, beside which nothing else is written."""
    return path.is_relative_to(_kept_models())


def _kept_models() -> Path:
    return cache_root() / "models"


def kept_model(key: str) -> Path:
    """Return the folder of a fetched file, by its digest, or its address where it has none."""
    return _kept_models() / hashlib.sha256(key.encode()).hexdigest()[:12]
