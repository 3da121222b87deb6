"""The declaration of a molecular dynamics run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dpsim.calculators.md.config import FramesStart, MDConfig
from dpsim.calculators.md.segments import NPTSegment, NVESegment, interval_steps

NVT = {"ensemble": "nvt", "temperature": "300 K", "time": "1 ps"}


def config(**changes: Any) -> MDConfig:
    return MDConfig.model_validate({"start": "label.frames", "run": NVT, **changes})


def test_example_of_the_guide() -> None:
    run = {"ensemble": "npt", "temperature": "1200 K", "pressure": "1 bar", "timestep": "2 fs", "time": "20 ps"}
    read = config(run=run, analyse=["rdf", "msd"])
    (segment,) = read.run
    assert isinstance(segment, NPTSegment)
    assert (segment.temperature, segment.pressure, segment.n_steps) == ((1200.0, 1200.0), (1.0, 1.0), 10000)
    assert segment.timestep == pytest.approx(0.002)
    assert read.analyse.rdf is not None
    assert read.analyse.msd is not None


def test_long_list_with_options() -> None:
    read = config(
        run=[
            {"ensemble": "nvt", "temperature": "400 K", "time": "200 ps"},
            {"ensemble": "nve", "time": "2 ns", "dump": {"every": "100 fs"}},
        ],
        analyse=["rdf", {"msd": {"species": ["Li"]}}],
    )
    assert isinstance(read.run[1], NVESegment)
    assert read.run[1].dump.every == "0.1 ps"
    assert read.analyse.msd is not None
    assert read.analyse.msd.species == ("Li",)


def test_time_step_is_that_of_the_segment_before() -> None:
    read = config(run=[{**NVT, "timestep": "2 fs"}, {"ensemble": "nve", "time": "1 ps"}])
    assert [s.n_steps for s in read.run] == [500, 500]  # type: ignore[union-attr]
    assert config().run[0].timestep == 0.0005  # type: ignore[union-attr]


def test_expanded_form_reads_back_unchanged() -> None:
    read = config(
        run=[{"ensemble": "minimize"}, {**NVT, "temperature": [300, 600]}],
        analyse=[{"rdf": {"pairs": ["O-O", ["O", "H"]]}}],
    )
    assert MDConfig.model_validate(read.model_dump(mode="json")) == read
    assert read.analyse.rdf is not None
    assert read.analyse.rdf.pairs == (("O", "O"), ("O", "H"))


def test_start_forms() -> None:
    assert config().start == FramesStart(frames="label.frames")
    assert config(start={"frames": "a.xyz", "index": 3, "supercell": [2, 1, 1]}).start == FramesStart(
        frames="a.xyz", index=3, supercell=(2, 1, 1)
    )


@pytest.mark.parametrize(("text", "steps"), [("100 steps", 100), (20, 20), ("1 step", 1), ("50 fs", 25), ("0.1 fs", 1)])
def test_intervals(text: Any, steps: int) -> None:
    read = config(run={**NVT, "dump": {"every": text}})
    assert interval_steps(read.run[0].dump.every, 0.002) == steps  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "gromacs"}, "lammps"),
        ({"run": {**NVT, "pressure": "1 bar"}}, "Extra inputs are not permitted"),
        ({"run": {**NVT, "steps": 100}}, "give the length of the segment once"),
        ({"run": {"ensemble": "nvt", "temperature": "300 K"}}, "give the length of the segment once"),
        ({"run": {**NVT, "temperature": 0}}, "above 0 K"),
        ({"run": {**NVT, "temperature": "300 bar"}}, "unit 'bar'"),
        ({"run": {**NVT, "timestep": 2}}, "a time step of 2 ps, expected at most 0.1 ps; .* for example 2 fs"),
        ({"run": {**NVT, "ensemble": "nph"}}, "nph"),
        ({"run": {**NVT, "thermostat": "berendsen"}}, "nose-hoover"),
        ({"run": {**NVT, "dump": {"every": "5 furlongs"}}}, "is not an interval"),
        ({"run": {**NVT, "dump": {"every": 0}}}, "at least 1 step"),
        ({"run": []}, "md needs run"),
        ({"run": [NVT, {"ensemble": "minimize"}]}, "only be the first segment"),
        ({"run": {"ensemble": "nve", "time": "1 ps"}}, "needs a temperature"),
        ({"run": [NVT, {"ensemble": "nve", "time": "1 ps", "temperature": 300}]}, "remove temperature"),
        ({"analyse": ["adf"]}, "Extra inputs are not permitted"),
        ({"analyse": ["rdf", "rdf"]}, "given twice"),
        ({"analyse": [3]}, "not an analysis"),
        ({"analyse": [{"rdf": {"segments": [1]}}]}, "not a dynamics segment"),
        ({"analyse": [{"msd": {"segments": [2, 0]}}], "run": [NVT, NVT, NVT]}, "must follow each other"),
        ({"analyse": [{"msd": {"fit": [0.5, 0.2]}}]}, "from a smaller to a larger"),
        ({"analyse": ["rdf"], "run": {"ensemble": "minimize"}}, "run only minimises"),
        ({"analyse": ["msd"], "run": {**NVT, "dump": {"every": "0.3 ps"}}}, "needs at least 4 frames, .* gives 3"),
        ({"analyse": ["rdf"], "run": {**NVT, "dump": {"every": "2 ps"}}}, "needs at least 1 frames"),
        ({"reference": "label.frames"}, "only used by the rdf analysis"),
        ({"stop_if": {"max_temperature": 0}}, "greater than 0"),
        ({"velocities": "keep", "run": {"ensemble": "nve", "time": "1 ps", "temperature": 300}}, "remove temperature"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_schema_offers_one_segment_or_a_list() -> None:
    run = MDConfig.model_json_schema()["properties"]["run"]
    assert [entry.get("type") for entry in run["anyOf"]] == [None, "array"]
