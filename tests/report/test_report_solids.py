"""The parts of a report about structures at rest, made from what the stages write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from dpsim.calculators.statics.phonon_config import PhononConfig
from dpsim.calculators.statics.phonon_run import run_phonons
from dpsim.calculators.statics.properties_config import PropertiesConfig
from dpsim.calculators.statics.properties_run import run_properties
from dpsim.calculators.statics.relax_config import RelaxConfig
from dpsim.calculators.statics.relax_run import run_relax
from dpsim.report import Section, build_report
from dpsim.report.build import MAX_BYTES, make_blocks
from dpsim.report.figures import Canvas

ON = {"prototype": "fcc", "element": "Cu"}


def emt(atoms: Any) -> Any:
    return EMT()


def named(atoms: Any, name: str) -> Any:
    atoms.info["name"] = name
    return atoms


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> list[Section]:
    folder = tmp_path_factory.mktemp("solids")
    structures = [named(bulk("Cu", cubic=True, a=3.5 + 0.02 * k), f"c{k}") for k in range(5)]
    structures[2].rattle(0.1)
    declared = RelaxConfig.model_validate({"on": ON, "max_steps": 3, "tolerate_failures": 1})
    run_relax(declared, structures, emt, folder / "relax")

    settings = {"on": ON, "supercell": [2, 2, 2], "mesh": 20.0, "band_points": 9, "projected": True}
    stable = PhononConfig.model_validate(settings)
    run_phonons(stable, bulk("Cu", a=3.6), emt, folder / "first")
    compared = PhononConfig.model_validate({**settings, "reference": "x", "displacement": 0.05})
    run_phonons(compared, bulk("Cu", a=3.6), emt, folder / "phonon", reference=folder / "first" / "bands.csv")
    run_phonons(stable, named(bulk("Cu", "sc", a=2.4), "simple"), emt, folder / "simple")

    (folder / "ref.yaml").write_text("{copper: {a: 3.6, C11: 170 GPa, C44: 75 GPa, C12: 122}}")
    compute = ["relax", "eos", "elastic", {"vacancy": {"max_steps": 1, "fmax": 1e-6}}, {"neb": {"vacancy_hop": True, "images": 1, "min_length": 5.0, "climb": False, "fmax": 0.3}}]  # fmt: skip # noqa: E501
    wanted = PropertiesConfig.model_validate({
        "on": ON, "compute": compute, "reference": "ref.yaml", "tolerance": "10 %", "beyond_tolerance": "warn",
        "tolerate_failures": 0.5,
    })  # fmt: skip
    run_properties(
        wanted, [named(bulk("Cu", a=3.6), "copper")], emt, folder / "properties", reference=folder / "ref.yaml"
    )
    kinds = {"relax": "relax", "phonon": "phonon", "simple": "phonon", "properties": "properties"}
    return [Section(name, kind, folder / name) for name, kind in kinds.items()]


def test_everything_is_shown(sections: list[Section], tmp_path: Path) -> None:
    page = build_report(sections, tmp_path)
    text = page.read_text()
    assert len(text) < MAX_BYTES
    for words in (
        "1 of 5 did not converge: c2: not converged in 3 steps", "Phonon bands", "difference to the reference",
        "Warning: the frequency at q =", "Heat capacity and entropy", "Beside the reference", "Not computed",
        "Equation of state of copper", "Energy along the path", "beyond their tolerance", "Frequencies at points",
    ):  # fmt: skip
        assert words in text, words
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["stages"]["properties"]["values"]["copper.B0"] == pytest.approx(134.4, abs=0.5)
    assert summary["stages"]["simple"]["imaginary"]
    cards = {card["label"]: card for card in summary["cards"]}
    assert float(cards["Elastic constants"]["value"]) == pytest.approx(20, abs=3)
    assert cards["Elastic constants"]["note"] == "C44 of copper, the worst"
    assert cards["Phonon error"]["unit"] == "THz"


def test_pieces_that_are_missing_leave_the_others(sections: list[Section], tmp_path: Path) -> None:
    import shutil

    for section in sections:
        for path in sorted(section.out.iterdir()):
            folder = tmp_path / section.name / path.name
            shutil.copytree(section.out, folder)
            (folder / path.name).unlink()
            make_blocks([Section(section.name, section.type, folder)], Canvas())
        empty = tmp_path / section.name / "empty"
        empty.mkdir()
        assert make_blocks([Section(section.name, section.type, empty)], Canvas()) == []
