"""One loss from the batches of a step, also from those of other processes.

Terms are normalised by all that the batches together hold, so that the step is that of one batch with all frames.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dpsim.train.batches.loader import Batch
from dpsim.train.loss import AnyLoss, Term, Terms, weighted_sum
from dpsim.train.loss.terms import Joining
from dpsim.train.parallel.distributed import ALONE, Workers

Key = TypeVar("Key", bound=Hashable)


class Head(NamedTuple):
    """What a process works on in a step."""

    number: int = 0
    """Which of the heads."""
    workers: int = 1
    """Processes that work on it in this step."""


class Outcome(NamedTuple):
    """What a step found before it moved the parameters."""

    loss: float
    terms: Terms
    """Of the loss, over all batches."""
    errors: Terms
    """Squared errors, over all batches."""


class Sums(NamedTuple):
    """What adds up of a term over batches: the things summed; of a root also the squares and the factor (0: none)."""

    number: float = 0.0
    squares: float = 0.0
    factor: float = 0.0

    @property
    def root(self) -> float:
        """Value of the term."""
        return (self.factor or 1.0) * math.sqrt(self.squares / self.number) if self.squares >= 0 else math.nan

    @property
    def slope(self) -> float:
        """Its derivative with respect to the squares."""
        if not self.squares > 0:
            return math.inf
        return (self.factor or 1.0) / (2 * math.sqrt(self.squares * self.number))


class Union:
    """The terms of a step over all its batches.

    Parameters
    ----------
    sums
        By term; None: there is a single batch.
    """

    def __init__(self, joining: Joining, sums: Mapping[str, Sums] | None) -> None:
        self.joining, self.sums = joining, sums

    def part(self, terms: Terms, weights: Mapping[str, float]) -> Tensor:
        """What to differentiate for one of the batches, so that its gradient is its part of the whole."""
        if self.sums is None or self.joining == "sum":
            return weighted_sum(terms, weights)
        if self.joining == "mean":
            shares = {name: term.size / self.sums[name].number for name, term in terms.items()}
            return weighted_sum(terms, {name: weights[name] * share for name, share in shares.items()})
        roots = {name: term.root.squares for name, term in terms.items() if term.root is not None}
        parts = [weights[name] * self.sums[name].slope * squares for name, squares in roots.items()]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    def outcome(self, found: Sequence[Outcome], weights: Mapping[str, float]) -> Outcome:
        """What the batches of this process found, together."""
        terms, errors = (joined([getattr(one, what) for one in found], how)
                         for what, how in (("terms", self.joining), ("errors", "mean")))  # fmt: skip
        value = sum(one.loss for one in found)
        if self.sums is not None and self.joining == "root":  # of all processes, as it is no sum of parts
            roots = {name: one.root for name, one in self.sums.items() if one.number}
            terms = {name: Term(torch.tensor(root, dtype=torch.float64), 1) for name, root in roots.items()}
            value = sum(weights[name] * root for name, root in roots.items())
        return Outcome(value, terms, errors)


class Joint:
    """Joins the batches of all processes; each calls the same methods for its own.

    Parameters
    ----------
    losses
        Of all heads; needed where there are several processes.
    """

    def __init__(self, workers: Workers = ALONE, losses: Sequence[AnyLoss] = ()) -> None:
        self.workers, self.losses = workers, losses

    def union(self, loss: AnyLoss, head: Head, batches: Sequence[Batch], held: Sequence[Terms] | None) -> Union:
        """What the terms of a step sum.

        Parameters
        ----------
        held
            Terms of the batches, if they are known already.
        """
        if self.workers.alone and len(batches) == 1:
            return Union(loss.joining, None)
        known = [loss.terms(loss.blank(batch), batch) for batch in batches] if held is None else held
        own = {name: _sums([terms[name] for terms in known if name in terms]) for name in loss.config.active}
        if self.workers.alone:
            return Union(loss.joining, own)
        keys = [(k, name) for k, one in enumerate(self.losses) for name in one.config.active]
        found = self._added(keys, {(head.number, name): sums for name, sums in own.items()}, 3)
        return Union(loss.joining, {name: Sums(*found[head.number, name]) for name in own})

    def outcomes(self, head: Head, outcome: Outcome) -> list[tuple[Head, Outcome]]:
        """What all processes found, for each head that one of them worked on."""
        if self.workers.alone:
            return [(head, outcome)]
        keys = [(k, kind, name) for k, loss in enumerate(self.losses)
                for kind, names in (("loss", [""]), ("term", loss.config.active), ("error", loss.quantities))
                for name in names]  # fmt: skip
        own = {(head.number, "loss", ""): (outcome.loss, 1.0)}
        for kind, terms in (("term", outcome.terms), ("error", outcome.errors)):
            own |= {(head.number, kind, name): (float(term.total), float(term.size)) for name, term in terms.items()}
        found = self._added(keys, own, 2)
        made = []
        for k, loss in enumerate(self.losses):
            value, number = found[k, "loss", ""]
            if number:
                terms, errors = ({name: _term(*found[of, what, name]) for of, what, name in keys
                                  if (of, what) == (k, kind) and found[of, what, name][1]}
                                 for kind in ("term", "error"))  # fmt: skip
                value = value / number if loss.joining == "root" else value
                made.append((Head(k, int(number)), Outcome(value, joined([terms], loss.joining), errors)))
        return made

    def _added(
        self, keys: Sequence[Key], own: Mapping[Key, Sequence[float]], width: int
    ) -> dict[Key, tuple[float, ...]]:
        """Sums over the processes of numbers by key; the keys are the same everywhere, in the same order."""
        none = (0.0,) * width
        flat = self.workers.sum([value for key in keys for value in own.get(key, none)])
        return {key: tuple(flat[width * i : width * (i + 1)]) for i, key in enumerate(keys)}


def joined(found: Sequence[Terms], how: Joining) -> Terms:
    """Terms of several batches as one."""
    if len(found) == 1 and how != "sum":
        return found[0]
    total: Terms = {}
    for terms in found:
        for name, term in terms.items():
            before = total.get(name)
            size = 1 if how == "sum" else term.size + (0 if before is None else before.size)
            total[name] = Term(term.total if before is None else before.total + term.total, size)
    return total


def _term(total: float, size: float) -> Term:
    return Term(torch.tensor(total, dtype=torch.float64), int(size))


def _sums(terms: Sequence[Term]) -> Sums:
    rows = [(one.size, 0.0, 0.0) if one.root is None
            else (one.root.number, one.root.squares.item(), one.root.factor or 0.0) for one in terms]  # fmt: skip
    return Sums(*(sum(column) for column in zip(*rows, strict=True))) if rows else Sums()
