"""``dpsim model pull``."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

import click

from dpsim.cli.common import fetching, json_option, print_json, shown
from dpsim.errors import ConfigError


@click.command("pull")
@click.argument("what", metavar="NAME|URL", required=False)
@click.option("--sha256", metavar="DIGEST", help="What the file must be; known for a NAME.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="Where it goes  [default: a folder of the cache]")  # fmt: skip
@click.option("--list", "list_them", is_flag=True, help="List the NAMEs.")
@json_option
def command(what: str | None, sha256: str | None, output: Path | None, list_them: bool, as_json: bool) -> None:
    """Fetch a model: a pretrained one by its NAME, or any from an address (https://, file://).

    The file is verified by its SHA-256 and appears whole or not at all; after a break, the same command goes on where
    it was. A file that exists is never replaced. Wherever a model file is expected, hub://NAME stands for a pretrained
    one and fetches it: in a workflow, on the command line and in Python.
    """
    from dpsim.data.download import download
    from dpsim.model.pretrained import PRETRAINED, kept_model

    if list_them:
        for name, model in PRETRAINED.items():
            click.echo(f"{name:<16}  {model.filename}  sha256 {model.sha256}")
        return
    if what is None:
        raise click.UsageError("say which: a NAME (--list shows them) or an address")
    urls, filename, digest = _source(what, sha256)
    target = output or kept_model(digest or what) / (filename or _no_name(what))
    with fetching(target.name) as report:
        found = download(urls, target, digest, report)
    if as_json:
        print_json({"file": str(target), "sha256": found})
        return
    click.echo(shown(target))
    if digest is None:
        click.echo(f"not verified; to have it verified the next time: --sha256 {found}", err=True)


def _source(what: str, sha256: str | None) -> tuple[tuple[str, ...], str, str | None]:
    """Return the places of a file, its name and its digest."""
    from dpsim.model.pretrained import HUB, pretrained

    what = what.removeprefix(HUB)
    if "://" in what:
        name = urllib.parse.unquote(urllib.parse.urlsplit(what).path).rpartition("/")[2]
        return (what,), name if name not in ("", ".", "..") and "\0" not in name else "", sha256
    try:
        known = pretrained(what, sha256)
    except ConfigError as error:
        raise ConfigError(f"{error}; an address begins with https:// or file://") from None
    return known.urls, known.filename, known.sha256


def _no_name(url: str) -> str:
    raise ConfigError(f"{url} does not end with the name of a file: name one with --output")
