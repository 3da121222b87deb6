"""Checks of derivatives against finite differences, of continuity at the cutoffs, and of float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.model.base import Model
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.testing.structures import Structure
from dpsim.testing.subject import ContractError, Subject, only_for

STENCIL = np.array([-2.0, -1.0, 1.0, 2.0])
WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
"""Five-point central difference (its middle weight is zero); the error is of fourth order in the step."""


@only_for("energy")
def check_forces(subject: Subject) -> None:
    """Forces are minus the gradient of the energy."""
    step = 1e-3
    for name, structure in (("molecule", subject.molecule(4)), ("small cell", subject.crystal(2, seed=1))):
        moves = np.eye(structure.positions.size).reshape(-1, *structure.positions.shape)
        moved = [structure._replace(positions=structure.positions + s * step * move) for move in moves for s in STENCIL]
        slopes = subject.totals(moved).reshape(-1, 4) @ WEIGHTS / step
        found = np.asarray(subject.evaluate(structure).forces)
        what = f"forces on the {name} and finite differences"
        subject.agree(what, found, -slopes.reshape(-1, 3), subject.tolerances.derivative)


@only_for("energy")
def check_virial(subject: Subject) -> None:
    """The virial is minus the derivative of the energy with respect to strain."""
    step = 1e-3
    for name, structure in (("molecule", subject.molecule()), ("small cell", subject.crystal(2, seed=1))):
        strains = [s * step * unit for unit in np.eye(9).reshape(9, 3, 3) for s in STENCIL]
        slopes = subject.totals([_strained(structure, strain) for strain in strains]).reshape(9, 4) @ WEIGHTS / step
        what = f"virial of the {name} and finite differences"
        subject.agree(what, subject.evaluate(structure).virial, -slopes.reshape(3, 3), subject.tolerances.derivative)


@only_for("dipole")
def check_dipole_derivatives(subject: Subject) -> None:
    """The derivatives of a dipole with respect to positions and strain, against finite differences."""
    step = 1e-3
    for name, structure in (("molecule", subject.molecule(4)), ("small cell", subject.crystal(2, seed=1))):
        moves = np.eye(structure.positions.size).reshape(-1, *structure.positions.shape)
        moved = [structure._replace(positions=structure.positions + s * step * move) for move in moves for s in STENCIL]
        strains = [s * step * unit for unit in np.eye(9).reshape(9, 3, 3) for s in STENCIL]
        strained = [_strained(structure, strain) for strain in strains]
        found = subject.potential.dipole_derivatives(**subject.frame(structure))
        for field, structures, shape in (
            ("dipole_forces", moved, (-1, 3, 3)),
            ("dipole_virial", strained, (3, 3, 3)),
        ):
            slopes = WEIGHTS @ subject.totals(structures).reshape(-1, 4, 3) / step
            expected = -np.moveaxis(slopes.reshape(-1, 3, 3), 2, 1) if field == "dipole_forces" else -slopes.T
            what = f"{field} of the {name} and finite differences"
            subject.agree(what, getattr(found, field), expected.reshape(shape), subject.tolerances.derivative)


def _strained(structure: Structure, strain: npt.NDArray[np.float64]) -> Structure:
    deformation = (np.eye(3) + strain).T
    cell = None if structure.cell is None else structure.cell @ deformation
    return structure._replace(positions=structure.positions @ deformation, cell=cell)


def check_parameter_gradient(subject: Subject) -> None:
    """The gradient of a loss on all that is predicted with respect to the parameters, as training takes it."""
    hood = collate([subject.graph(s) for s in (subject.molecule(4), subject.crystal(2, seed=1))])
    groups = _parameter_groups(subject.model)
    if not groups:
        return  # a table has nothing to train
    loss = _loss(subject.model, hood, create_graph=True)
    pairs = [(_slope(loss, group), _difference_quotient(subject.model, hood, group)) for group in groups.values()]
    allowed = subject.tolerances.derivative * max(abs(expected) for _, expected in pairs)
    for name, (found, expected) in zip(groups, pairs, strict=True):
        if not abs(found - expected) <= allowed:
            raise ContractError(
                f"gradient of the loss with respect to {name}: {found:.10g} differs from its finite difference "
                f"{expected:.10g} by {abs(found - expected):.1e}, allowed {allowed:.1e}"
            )


Group = list[tuple[torch.nn.Parameter, torch.Tensor]]


def _parameter_groups(model: Model) -> dict[str, Group]:
    """Parameters with a random direction each, by the part of the model they belong to."""
    generator = torch.Generator().manual_seed(0)
    groups: dict[str, Group] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(True)
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        groups.setdefault(".".join(name.split(".")[:3]), []).append((parameter, direction))
    return groups


def _loss(model: Model, hood: Neighborhood, *, create_graph: bool = False) -> torch.Tensor:
    if model.output != "energy":
        values: torch.Tensor = model(hood)
        return (values**2).mean()
    d = model.derivatives(hood, 2, create_graph=create_graph)
    loss = (d.energy**2).mean() + (d.forces**2).mean() + 0.1 * (d.virial**2).mean()
    return loss if d.magnetic_forces is None else loss + (d.magnetic_forces**2).mean()


def _slope(loss: torch.Tensor, group: Group) -> float:
    """Derivative of the loss along the directions, by differentiation."""
    gradients = torch.autograd.grad(loss, [p for p, _ in group], allow_unused=True, retain_graph=True)
    return sum(float((g * d).sum()) for g, (_, d) in zip(gradients, group, strict=True) if g is not None)


def _difference_quotient(model: Model, hood: Neighborhood, group: Group, step: float = 1e-4) -> float:
    kept = [p.detach().clone() for p, _ in group]
    values = []
    for s in STENCIL:
        for (parameter, direction), value in zip(group, kept, strict=True):
            parameter.data.copy_(value + s * step * direction)
        values.append(_loss(model, hood).item())
    for (parameter, _), value in zip(group, kept, strict=True):
        parameter.data.copy_(value)
    return float(np.dot(WEIGHTS, values)) / step


def check_cutoff(subject: Subject) -> None:
    """What is predicted is continuous where a neighbour crosses the cutoff."""
    _check_crossing(subject, "the cutoff", subject.model.neighbors.cutoff)


def check_inner_cutoffs(subject: Subject) -> None:
    """What is predicted is continuous where a neighbour crosses the cutoff of an inner list, as that of angles."""
    spec = subject.model.neighbors
    for radius in sorted({one.cutoff for one in spec.walk()} - {spec.cutoff}):
        _check_crossing(subject, "the cutoff of an inner list", radius)


def _check_crossing(subject: Subject, what: str, radius: float) -> None:
    """An atom moves outwards through `radius` around one atom, in sight of two others that form angles with it."""
    step = 1e-9
    unit = 0.3 * radius
    base = np.array([[0.0, 0.0, 0.0], [1.3 * unit, 0.9 * unit, 0.0], [1.1 * unit, -0.8 * unit, 0.7 * unit]])
    types = np.arange(4) % subject.n_types
    sides = [Structure(np.vstack([base, [radius + s * step, 0.0, 0.0]]), types) for s in (-1, 1)]
    inside, outside = subject.evaluate_many(sides)
    for name in (subject.output, *(("forces",) if "forces" in subject.fields else ())):
        where = f"{name} where a neighbour crosses {what} ({radius} Å)"
        subject.agree(where, getattr(outside, name), getattr(inside, name), subject.tolerances.jump)


def check_single_precision(subject: Subject) -> None:
    """Networks in float32 give nearly the same, and everything that is returned is float64."""
    model = subject.model.with_precision("float32")
    potential = Potential(ModuleEngine(model, "cpu"), "the model in float32")
    for name, structure in subject.samples().items():
        found, expected = potential.evaluate(**subject.frame(structure)), subject.evaluate(structure)
        for field in subject.fields[1:]:
            dtype = np.asarray(getattr(found, field)).dtype
            if dtype != np.float64:
                raise ContractError(f"{field} of the {name} from networks in float32 is {dtype}, expected float64")
        subject.agree_all(f"{name} in float32", found, expected, subject.tolerances.single)
