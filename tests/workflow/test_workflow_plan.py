"""The plan is a topological order, the same for every order of the file, and knows matrices and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.plan import Plan


def plan_text(path: Path, text: str) -> Plan:
    path.write_text(text)
    return load(path, check_files=False)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Stages with the stages they need, in a random order; no circles."""
    names = [f"s{i}" for i in range(draw(st.integers(1, 8)))]
    edges = {name: draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else [] for i, name in enumerate(names)}
    return {name: edges[name] for name in draw(st.permutations(names))}


def as_yaml(graph: dict[str, list[str]]) -> str:
    stages = {
        name: {"uses": "command", "run": ["x"], "inputs": {need: need for need in needs}}
        for name, needs in graph.items()
    }
    return json.dumps({"dpsim": 1, "stages": stages})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs())
def test_every_stage_comes_after_what_it_needs(graph: dict[str, list[str]], tmp_path: Path) -> None:
    plan = plan_text(tmp_path / "w.yaml", as_yaml(graph))
    assert sorted(plan.order) == sorted(graph)
    position = {name: i for i, name in enumerate(plan.order)}
    for name, needs in graph.items():
        assert sorted(plan.needs(name)) == sorted(needs)
        assert all(position[need] < position[name] for need in needs)
    some = plan.order[len(plan.order) // 2]
    assert all(position[name] <= position[some] for name in plan.upstream([some]))
    assert plan.upstream([some]) & plan.downstream([some]) == {some}
    for name in plan.order:
        assert (name in plan.upstream([some])) == (some in plan.downstream([name]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs(), data=st.data())
def test_circles_are_found(graph: dict[str, list[str]], data: st.DataObject, tmp_path: Path) -> None:
    reach = {name: {name} for name in graph}
    for _ in graph:
        reach = {n: r | {m for need in graph[n] for m in reach[need]} for n, r in reach.items()}
    name = data.draw(st.sampled_from(sorted(graph)))
    target = data.draw(st.sampled_from(sorted(n for n in graph if name in reach[n])))
    closed = {**graph, name: sorted({*graph[name], target})}
    with pytest.raises(InvalidWorkflow, match="in a circle") as caught:
        plan_text(tmp_path / "w.yaml", as_yaml(closed))
    assert [problem.code for problem in caught.value.problems] == ["E302"]


MATRIX = """
dpsim: 1
type_map: [Cu]
vars: {T: [300, 600]}
stages:
  label: {uses: label, calculator: {name: emt}, structures: {prototype: fcc, element: Cu}}
  md:
    uses: command
    matrix: {T: "${vars.T}", P: [1 bar, 1 kbar]}
    run: [run, "${matrix.T} K", "${matrix.P}"]
    outputs: {f: "${matrix.T}.xyz"}
  data: {uses: convert, from: [label, md.f]}
  one: {uses: command, run: [x], inputs: {a: "md@T=600,P=1_bar.f"}}
"""


def test_a_matrix_makes_one_task_for_each_point(tmp_path: Path) -> None:
    plan = plan_text(tmp_path / "w.yaml", MATRIX)
    points = ["md@T=300,P=1_bar", "md@T=300,P=1_kbar", "md@T=600,P=1_bar", "md@T=600,P=1_kbar"]
    assert plan.order == ("label", *points, "data", "one")
    assert plan.needs("data") == ("label", *points)
    assert plan.needs("one") == ("md@T=600,P=1_bar",)
    assert plan.workflow.tasks[points[3]].config.model_dump()["run"] == ["run", "600 K", "1 kbar"]
    assert plan.tasks_of("md") == points
    assert plan.tasks_of(points[0]) == points[:1]


@pytest.mark.parametrize(
    ("reference", "code"), [("md.f", "E303"), ("md@T=900,P=1_bar.f", "E301"), ("md@T=300,P=1_bar.g", "E304")]
)
def test_wrong_references_to_a_matrix(tmp_path: Path, reference: str, code: str) -> None:
    text = MATRIX + f'  frozen: {{uses: freeze, from: "{reference}"}}\n'
    with pytest.raises(InvalidWorkflow) as caught:
        plan_text(tmp_path / "w.yaml", text)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_pattern_for_an_input_that_takes_one_file(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    path = tmp_path / "w.yaml"
    path.write_text(
        "dpsim: 1\ntype_map: [Cu]\nstages:\n  frozen:\n    uses: freeze\n    from: {path: '*.safetensors'}\n"
    )
    with pytest.raises(
        InvalidWorkflow, match=r"matches 2 files \(a.safetensors, b.safetensors\), but this input takes one"
    ) as caught:
        load(path)
    assert [problem.code for problem in caught.value.problems] == ["E303"]
    (tmp_path / "b.safetensors").unlink()
    load(path)


def test_left_out_stages_take_along_what_needs_them_but_not_lists(tmp_path: Path) -> None:
    text = """
dpsim: 1
type_map: [Cu]
vars: {extra: false}
stages:
  a: {uses: command, run: [x], outputs: [f]}
  b: {uses: command, run: [x], outputs: [f], when: "${vars.extra}"}
  c: {uses: freeze, from: b.f}
  d: {uses: command, run: [x], inputs: {c: c.model}}
  data: {uses: convert, from: [a, b]}
  report: {uses: report, from: [data, c]}
"""
    plan = plan_text(tmp_path / "w.yaml", text)
    assert plan.order == ("a", "data", "report")
    assert plan.needs("data") == ("a",)
    assert set(plan.skipped) == {"c", "d"}
    with_all = load(tmp_path / "w.yaml", overrides=("vars.extra=true",), check_files=False)
    assert set(with_all.order) == {"a", "b", "c", "d", "data", "report"}


def test_when_is_decided_at_each_point(tmp_path: Path) -> None:
    text = """
dpsim: 1
stages:
  a:
    {uses: command, matrix: {on: [true, false], x: [1, 2]}, run: ["${matrix.x}"], outputs: [f], when: "${matrix.on}"}
  b: {uses: command, matrix: {on: [false]}, run: [x], outputs: [f], when: "${matrix.on}"}
  one: {uses: command, matrix: {on: [true, false]}, run: [x], inputs: {i: "a@on=${matrix.on},x=1.f"}, outputs: [f]}
  after: {uses: command, run: [x], inputs: {i: "one@on=false"}}
  lone: {uses: command, run: [x], inputs: {i: b}}
  all: {uses: report, from: [a, b, one]}
"""
    plan = plan_text(tmp_path / "w.yaml", text)
    assert set(plan.order) == {"a@on=true,x=1", "a@on=true,x=2", "one@on=true", "all"}
    assert plan.skipped == {
        "one@on=false": "needs a@on=false,x=1.f, which is left out",
        "after": "needs one@on=false, which is left out",
        "lone": "needs b, which is left out",
    }
    assert plan.needs("all") == ("a@on=true,x=1", "a@on=true,x=2", "one@on=true")
    with pytest.raises(InvalidWorkflow, match=r"'a@on=true,x=3.f' is not a matrix point of stage 'a'"):
        plan_text(tmp_path / "w.yaml", text.replace("a@on=${matrix.on},x=1.f", "a@on=${matrix.on},x=3.f"))


@pytest.mark.parametrize(
    ("value", "runs"), [("false", False), ("true", True), ("no", None), ("0", None), ("False", None)]
)
def test_when_of_the_environment(tmp_path: Path, value: str, runs: bool | None) -> None:
    (tmp_path / "w.yaml").write_text(
        "dpsim: 1\nstages:\n  a: {uses: command, run: [x], outputs: [f]}\n"
        '  b: {uses: command, run: [x], outputs: [f], when: "${env.RUN_B}"}\n'
    )
    if runs is None:
        with pytest.raises(InvalidWorkflow, match=f"when: '{value}' is neither true nor false; write one"):
            load(tmp_path / "w.yaml", environment={"RUN_B": value})
    else:
        assert load(tmp_path / "w.yaml", environment={"RUN_B": value}).order == (("a", "b") if runs else ("a",))
