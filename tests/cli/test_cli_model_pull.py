"""``dpsim model pull``: whole and verified, or nothing; resumed after a break; nothing is replaced."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dpsim.cli.main import run
from dpsim.data import download as module
from dpsim.data.download import download
from dpsim.errors import ConfigError, DataError, SetupError
from dpsim.model.pretrained import PRETRAINED, Pretrained

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """A server that breaks off and knows ranges, as it is told."""

    breaks: ClassVar[list[int]] = []
    """Bytes after which each of the next connections ends."""
    ranges = True
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Range", "")
        self.asked.append(f"{self.path} {given}".strip())
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/model.pt")
            self.end_headers()
            return
        if self.path.startswith("/none"):
            self.send_error(404)
            return
        begin = int(given[6:-1]) if given and self.ranges else 0
        if begin >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        body = CONTENT[begin:]
        self.send_response(206 if given and self.ranges else 200)
        if given and self.ranges:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.breaks.pop(0)] if self.breaks else body)

    def log_message(self, format: str, *values: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    Handler.breaks.clear()
    Handler.asked.clear()
    Handler.ranges = True
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    found.server_close()
    thread.join()


def test_a_file_arrives(server: str, tmp_path: Path) -> None:
    told: list[tuple[float, float | None]] = []
    target = tmp_path / "new" / "model.pt"
    found = download([f"{server}/moved"], target, f"SHA256:{DIGEST}".lower(), lambda *values: told.append(values))
    assert (found, target.read_bytes() == CONTENT) == (DIGEST, True)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert list(target.parent.iterdir()) == [target]
    asked = len(Handler.asked)
    assert download([f"{server}/model.pt"], target, DIGEST) == DIGEST  # it is there: nothing is asked
    assert len(Handler.asked) == asked


def test_it_goes_on_after_breaks(server: str, tmp_path: Path) -> None:
    Handler.breaks[:] = [1000, 0, 500_000]
    target = tmp_path / "m.pt"
    assert download([f"{server}/m.pt"], target, DIGEST) == DIGEST
    assert target.read_bytes() == CONTENT
    assert Handler.asked == [
        "/m.pt", "/m.pt bytes=1000-", "/m.pt bytes=1000-", "/m.pt bytes=501000-",
    ]  # fmt: skip


def test_another_call_goes_on(server: str, tmp_path: Path) -> None:
    Handler.breaks[:] = [1000, *[0] * module.ATTEMPTS]
    target = tmp_path / "m.pt"
    with pytest.raises(SetupError, match=r"ended after 1,000 of 1,280,000 bytes: try again later"):
        download([f"{server}/m.pt"], target, DIGEST)
    (part,) = tmp_path.iterdir()
    assert part.stat().st_size == 1000
    Handler.asked.clear()
    assert download([f"{server}/m.pt"], target, DIGEST) == DIGEST
    assert Handler.asked == ["/m.pt bytes=1000-"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_server_without_ranges_sends_all_again(server: str, tmp_path: Path) -> None:
    Handler.breaks[:] = [1000]
    Handler.ranges = False
    assert download([f"{server}/m.pt"], tmp_path / "m.pt", DIGEST) == DIGEST
    assert (tmp_path / "m.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [CONTENT, CONTENT + b"more"])
def test_what_is_complete_or_too_long(server: str, tmp_path: Path, there: bytes) -> None:
    (tmp_path / f".m.pt.{DIGEST[:12]}.part").write_bytes(there)
    assert download([f"{server}/m.pt"], tmp_path / "m.pt", DIGEST) == DIGEST
    assert (tmp_path / "m.pt").read_bytes() == CONTENT


def test_other_content_is_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"its content has sha256 {DIGEST}, not {'0' * 64}: nothing of it was kept"):
        download([f"{server}/m.pt"], tmp_path / "m.pt", "0" * 64)
    assert not (tmp_path / "m.pt").exists()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


def test_the_next_place_is_tried(server: str, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"wrong")
    urls = [f"{server}/none", (tmp_path / "wrong").as_uri(), f"{server}/m.pt"]
    assert download(urls, tmp_path / "m.pt", DIGEST) == DIGEST
    with pytest.raises(SetupError, match="the server says 404 Not Found"):
        download(urls[:2], tmp_path / "n.pt", DIGEST)


def test_nothing_is_replaced(server: str, tmp_path: Path) -> None:
    target = tmp_path / "m.pt"
    target.write_bytes(b"mine")
    for digest, message in ((DIGEST, "is another file"), (None, "exists already")):
        with pytest.raises(DataError, match=message):
            download([f"{server.replace('http', 'https')}/m.pt"], target, digest)
    assert target.read_bytes() == b"mine"
    assert Handler.asked == []
    with (tmp_path / f".n.pt.{DIGEST[:12]}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is fetching"):
            download([f"{server}/m.pt"], tmp_path / "n.pt", DIGEST)


def test_addresses(server: str, tmp_path: Path) -> None:
    for url, digest, message in (
        (f"{server}/m.pt", None, "give its SHA-256, or take https"),
        ("ftp://x/m.pt", DIGEST, "begins with https:// or file://"),
        ("https://x/m.pt", "abc", "must be 64 hexadecimal digits"),
    ):
        with pytest.raises(ConfigError, match=message):
            download([url], tmp_path / "m.pt", digest)
    with pytest.raises(SetupError, match="No such file"):
        download([(tmp_path / "absent").as_uri()], tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


def test_the_command(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def said(*words: str, code: int = 0) -> tuple[str, str]:
        assert run(["model", "pull", *words]) == code
        return tuple(capfd.readouterr())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PRETRAINED, "Known-1M", Pretrained("known.pt", DIGEST, (f"{server}/m.pt",)))
    assert "Known-1M" in said("--list")[0]
    first, second = said("Known-1M")[0], json.loads(said("Known-1M", "--json")[0])
    assert Path(first.strip()) == Path(second["file"])
    assert Path(second["file"]).is_relative_to(tmp_path / "cache" / "dpsim" / "models")
    assert (Path(second["file"]).name, second["sha256"], len(Handler.asked)) == ("known.pt", DIGEST, 1)
    assert "there is no pretrained model 'Known-2M': write one of DPA-" in said("Known-2M", code=3)[1]
    assert "leave the digest out" in said("Known-1M", "--sha256", "0" * 64, code=3)[1]
    (tmp_path / "own.pt").write_bytes(b"own")
    out, err = said((tmp_path / "own.pt").as_uri(), "-o", str(tmp_path / "copy.pt"))
    assert (out.strip().endswith("copy.pt"), (tmp_path / "copy.pt").read_bytes()) == (True, b"own")
    assert f"--sha256 {hashlib.sha256(b'own').hexdigest()}" in err
    assert "name one with --output" in said("https://example.org/", "--sha256", DIGEST, code=3)[1]
    said(code=2)


def test_published_models() -> None:
    assert {"DPA-3.1-3M", "DPA-2.4-7M"} <= set(PRETRAINED)
    for model in PRETRAINED.values():
        assert re.fullmatch("[0-9a-f]{64}", model.sha256)
        assert model.filename.endswith(".pt")
        assert all(url.startswith("https://") for url in model.urls)
