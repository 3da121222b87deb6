"""The reference pages say everything that can be set, and are those of this code."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from make_golden_keys import keys
from make_pages import DOCS, made, where_tested

from dpsim.cli import main as cli
from dpsim.workflow.language.codes import CODES
from dpsim.workflow.language.document import read_document
from dpsim.workflow.language.profiles import Profile
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.resources import Machine, grants
from dpsim.workflow.reference.machine_examples import EXAMPLES as MACHINE_EXAMPLES
from dpsim.workflow.reference.pages import machines_page, pages, recipes, stage_page
from dpsim.workflow.stage import Resources, Stage
from dpsim.workflow.stages import STAGE_TYPES, find_stage_type


def test_the_pages_are_current() -> None:
    """Fails when settings change: run ``python tests/workflow/make_pages.py``."""
    assert {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")} == made()


@pytest.mark.parametrize("name", STAGE_TYPES)
def test_every_option_is_on_the_page(name: str) -> None:
    page = stage_page(name)
    stage_type = find_stage_type(name)
    assert stage_type is not None
    for field, info in stage_type.model_fields.items():
        if field not in Stage.model_fields:
            assert f"| `{info.alias or field}` |" in page, field
    for output in stage_type.outputs:
        assert f"| `{output}`" in page
    assert "## Example\n" in page
    assert "any value | needed" not in page


def test_every_stage_type_has_a_test_a_page_and_an_example() -> None:
    used = {stage.get("uses") for stages in recipes().values() for stage in stages.values()}
    for name in STAGE_TYPES:
        assert where_tested(name), f"no test runs a stage of type {name}"
        assert f"| [{name}]({name}.md) |" in made()["README.md"]
    assert used <= set(STAGE_TYPES)


def test_examples_without_a_recipe_are_valid(tmp_path: Path) -> None:
    from dpsim.workflow.reference.describe import to_yaml
    from dpsim.workflow.reference.pages import EXAMPLES

    label = {
        "uses": "label",
        "structures": {"prototype": "fcc", "element": "Cu"},
        "calculator": {"name": "emt"},
    }
    stages = {"label": label, "data": {"uses": "convert", "from": "label.frames"}}
    for name, example in EXAMPLES.items():
        (tmp_path / "w.yaml").write_text(
            to_yaml({"dpsim": 1, "type_map": ["Cu"], "stages": {**stages, f"the_{name}": example}})
        )
        assert f"the_{name}" in load(tmp_path / "w.yaml", check_files=False).order


def test_units_and_defaults_are_shown() -> None:
    page = stage_page("md")
    assert "| `timestep` | time (ps) |" in page
    assert "| `max_temperature` | temperature (K) | `20000 K` |" in page
    assert "[NPTSegment](#nptsegment)" in page


def test_every_code_is_explained() -> None:
    page = pages()["errors.md"]
    for code, entry in CODES.items():
        assert f"## {code}: {entry.title}\n\n{entry.page}" in page


def test_the_command_writes_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schema", "--pages", str(tmp_path / "docs")]) == 0
    assert len(list((tmp_path / "docs").glob("*.md"))) == len(STAGE_TYPES) + 4
    assert "pages in" in capfd.readouterr().err


@pytest.mark.parametrize("heading", MACHINE_EXAMPLES)
def test_examples_of_profiles_are_valid(tmp_path: Path, heading: str) -> None:
    (tmp_path / "w.yaml").write_text(MACHINE_EXAMPLES[heading])
    for name in read_document(tmp_path / "w.yaml").data["profiles"]:
        if name == "cluster" and not (find_spec("dpdispatcher") and find_spec("parsl")):
            pytest.skip("dpdispatcher or parsl is not installed")
        plan = load(tmp_path / "w.yaml", profile=name, check_files=False)
        found = grants(plan, Machine(8, 8))
        plan.workflow.collector.check()
        assert found.keys() == set(plan.order)
        if "melt" in found and name == "cluster":
            assert (found["melt"].mpi, found["melt"].ranks, found["melt"].nodes) == ("device", 8, 2)
            text = MACHINE_EXAMPLES[heading]
            assert keys(text) == keys(text.replace("mpi: cuda-aware, ", "")) != keys(text.replace("1400 K", "1300 K"))
    assert f"## {heading}\n\n```yaml\n{MACHINE_EXAMPLES[heading]}```" in machines_page()
    for field in (*Profile.model_fields, *Resources.model_fields):
        assert f"| `{field}` |" in machines_page()
