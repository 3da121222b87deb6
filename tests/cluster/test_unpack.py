"""Archives of another machine: what they hold, and what must not leave the folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from dpsim.errors import SetupError
from dpsim.workflow.executors.remote import unpack


@pytest.fixture(params=[True, False], ids=["filters", "no filters"])
def filters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python with and without the filters that 3.11.4 brought."""
    if not request.param:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


def archive_of(members: list[tuple[str, bytes, str]]) -> tarfile.TarFile:
    """A stream of members: name, type, content or what a link leads to."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content
            archive.addfile(info, io.BytesIO(content.encode()) if kind == tarfile.REGTYPE else None)
    file.seek(0)
    return tarfile.open(fileobj=file, mode="r|")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("filters")
def test_files_folders_and_links_inside(tmp_path: Path) -> None:
    archive = archive_of([
        (".", tarfile.DIRTYPE, ""),
        ("out", tarfile.DIRTYPE, ""),
        ("out/a", tarfile.REGTYPE, "words"),
        ("out/b", tarfile.SYMTYPE, "a"),
        ("work/c", tarfile.SYMTYPE, "../out/a"),
        ("work/d", tarfile.LNKTYPE, "out/a"),
    ])  # fmt: skip
    unpack(archive, tmp_path)
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == dict.fromkeys(
        ("out/a", "out/b", "work/c", "work/d"), "words"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("filters")
@pytest.mark.parametrize(
    "members",
    [
        [("../x", tarfile.REGTYPE, "bad")],
        [("out/../../x", tarfile.REGTYPE, "bad")],
        [("l", tarfile.SYMTYPE, "../x")],
        [("l", tarfile.SYMTYPE, "/etc/passwd")],
        [("l", tarfile.LNKTYPE, "../outside")],
        [("l", tarfile.FIFOTYPE, "")],
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    (tmp_path / "outside").write_text("mine")
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(SetupError, match="the archive of the other machine holds"):
        unpack(archive_of(members), folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "outside"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("filters")
def test_an_absolute_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(SetupError, match="no file inside of it"):
        unpack(archive_of([(str(tmp_path / "x"), tarfile.REGTYPE, "bad")]), folder)
    assert not (tmp_path / "x").exists()
