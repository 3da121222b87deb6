"""What losses are made of: terms that add up over batches, and functions of an error.

F frames, N atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dpsim.train.batches.loader import Batch, Label

Measure = Callable[[Tensor], Tensor]
"""Function of errors, element by element."""


Joining = Literal["mean", "sum", "root"]
"""What a term of several batches together is: the mean over all they hold, the sum of their terms, or the root of a
mean over all they hold."""


class Root(NamedTuple):
    """What a term that is a root is made of: ``factor · sqrt(squares / number)``; all three add up over batches."""

    squares: Tensor
    number: float
    factor: float | None = None
    """None: 1, however many the batches."""


class Term(NamedTuple):
    """Mean error as a sum and the number of things summed."""

    total: Tensor
    size: int
    root: Root | None = None


Terms = dict[str, Term]


def rooted(squares: Tensor, number: float, factor: float | None = None) -> Term:
    """Root of a mean of squares, times a factor."""
    value = (squares / number).sqrt()
    return Term(value if factor is None else value * factor, 1, Root(squares, number, factor))


def weighted_sum(terms: Mapping[str, Term], prefactors: Mapping[str, float]) -> Tensor:
    """Scalar loss from its terms and their weights; zero if there are none."""
    parts = [prefactors[name] * (term.total / term.size) for name, term in terms.items()]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)


def reduced(values: Tensor, label: Label) -> Term:
    """Sum of the rows that count, and the number of their components."""
    per_row = values[0].numel() if len(values) else 1
    if label.weight is not None:
        values = values.reshape(len(values), -1) * label.weight[:, None]
    return Term(values.sum(), label.size * per_row)


def both(a: Label, b: Label) -> Label:
    """Rows of `a` that count in both."""
    if a.weight is None or b.weight is None:
        return Label(a.values, b.weight if a.weight is None else a.weight, min(a.size, b.size))
    weight = a.weight * b.weight
    return Label(a.values, weight, int(weight.sum()))


def or_one(label: Label | None, like: Tensor) -> Tensor:
    """Values (N,) of a label, one where it is missing; `like` gives their number and device."""
    if label is None:
        return torch.ones(len(like), dtype=torch.float64, device=like.device)
    return label.values if label.weight is None else torch.where(label.weight > 0, label.values, 1.0)


def per_frame(batch: Batch, values: Tensor) -> Tensor:
    """Values (F, ...) of the frames, for each of their atoms (N, ...)."""
    return values.index_select(0, batch.frame)


def expanded(factors: Tensor, like: Tensor) -> Tensor:
    """Factors (M,) with as many axes as `like` (M, ...), to be multiplied with it."""
    return factors.view(-1, *[1] * (like.ndim - 1))


def inverse(n: Tensor, power: int) -> Tensor:
    """``1 / n^power``, rounded to single precision as the reference does, so that losses agree in all digits."""
    return (1 / n.to(torch.float32)).pow(power).to(torch.float64)


def huber(x: Tensor, delta: float) -> Tensor:
    """``x²/2`` up to `delta`, then linear with the same slope."""
    size = x.abs()
    return torch.where(size <= delta, 0.5 * x.square(), delta * (size - 0.5 * delta))


def smooth_mae(x: Tensor, beta: float) -> Tensor:
    """``x²/(2 beta)`` below `beta`, then ``|x| − beta/2``."""
    return huber(x, beta) / beta


def measure(name: str, beta: float | None) -> Measure:
    """Function of an error by its name in the settings."""
    if name == "smooth_mae":
        return lambda x: smooth_mae(x, 1.0 if beta is None else beta)
    return torch.abs if name == "mae" else torch.square


def joining(function: str) -> Joining:
    """How the terms of several batches join, where `measure` has this name; a batch is a sum of its errors."""
    if function == "rmse":
        return "root"
    return "mean" if function == "mape" else "sum"
