"""Digests of files and folders by content, remembered so that planning again reads no big files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from dpsim.errors import DataError
from dpsim.workflow.records.files import read_json, write_atomic

DIGEST_BYTES: Final = 20
"""BLAKE2b with 160 bits."""
_RACY_NS: Final = 2_000_000_000
# A file written less than this before it was read may change again within the clock of the file system.


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces, the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_bytes(data: bytes) -> str:
    """Return the BLAKE2b-160 of some bytes in hexadecimal."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


class Digester:
    """Digests of files, with a memo by (size, modification time, inode).

    Parameters
    ----------
    memo
        File in which the memo is kept between runs; None keeps it in memory only.
    verify
        Read every file again, whatever the memo says.
    """

    def __init__(self, memo: Path | None = None, *, verify: bool = False) -> None:
        self._path = memo
        self._verify = verify
        self._memo: dict[str, list[Any]] = {}
        self._verified: set[str] = set()
        self._changed = False
        self.read_bytes = 0
        """Bytes that had to be read so far."""
        if memo is not None:
            self._memo = read_json(memo)

    def file(self, path: Path) -> str:
        """Return the digest of a file's content.

        Raises
        ------
        DataError
            If the file cannot be read.
        """
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path} is neither a file nor a folder, so it has no content to compare")
            name = os.path.abspath(path)
            stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
            known = self._memo.get(name)
            if known and known[:3] == stamp and (not self._verify or name in self._verified):
                return str(known[3])
            digest = self._read(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
        if time.time_ns() - status.st_mtime_ns > _RACY_NS:
            self._memo[name] = [*stamp, digest]
            self._changed = True
        self._verified.add(name)
        return digest

    def _read(self, path: Path) -> str:
        hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
                self.read_bytes += len(block)
        return hasher.hexdigest()

    def path(self, path: Path) -> str:
        """Return the digest of a file or, as a Merkle tree, of a folder.

        A folder's digest is that of the sorted list of (relative path, executable bit, digest of the file).
        Links count as the content that they lead to, but for links to folders that are in it anyway or that lead in a
        circle, which count as their text.
        """
        if not path.is_dir():
            return self.file(path)
        return digest_bytes(canonical_json(sorted(self._entries(path))))

    def _entries(self, folder: Path) -> Iterable[list[Any]]:
        walked = [Path(os.path.realpath(folder))]
        for root, folders, files in os.walk(folder, followlinks=True):
            here = Path(root)
            folders.sort()  # which of two links is followed must not depend on the file system
            for name in files:
                path = here / name
                yield [path.relative_to(folder).as_posix(), _executable(path), self.file(path)]
            for name in list(folders):
                path = here / name
                if path.is_symlink() and not _leads_on(path, walked):
                    folders.remove(name)
                    yield [path.relative_to(folder).as_posix(), False, "link:" + os.readlink(path)]
                elif not any(path.iterdir()):
                    yield [path.relative_to(folder).as_posix() + "/", False, ""]

    def files(self, paths: Iterable[Path], base: Path) -> str:
        """Return the digest of files from outside: their names relative to `base` and their content."""
        entries = sorted([os.path.relpath(path, base), self.path(path)] for path in paths)
        return digest_bytes(canonical_json(entries))

    def save(self) -> None:
        """Write the memo, leaving out files that are gone."""
        if self._path is None or not self._changed:
            return
        kept = {name: entry for name, entry in self._memo.items() if os.path.exists(name)}
        write_atomic(self._path, json.dumps(kept))
        self._changed = False


def _leads_on(link: Path, walked: list[Path]) -> bool:
    """Whether a link leads to a folder that has yet to be walked, which is then noted."""
    target = Path(os.path.realpath(link))
    if Path(os.path.realpath(link.parent)).is_relative_to(target) or any(map(target.is_relative_to, walked)):
        return False
    walked.append(target)
    return True


def _executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)
