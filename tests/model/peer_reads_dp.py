"""Evaluate a model with DeePMD-kit itself; run by its own Python, see `test_peer_files`.

    python peer_reads_dp.py MODEL IN.npz OUT.npz

IN holds ``coord (n, 3)``, ``atype (n,)`` and, where they apply, ``cell (3, 3)``, ``fparam``, ``aparam``, ``spin`` and
``charge_spin`` of one structure; OUT gets the arrays that DeePMD-kit returns, by their order.
"""

from __future__ import annotations

import sys

import numpy as np


def evaluate(model: str, frame: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the peer's general evaluator says of one structure."""
    from deepmd.infer import DeepPotential

    inputs = {key: frame[key][None] for key in ("fparam", "aparam", "spin", "charge_spin") if key in frame}
    cell = frame["cell"].reshape(1, 9) if "cell" in frame else None
    results = DeepPotential(model).eval(frame["coord"].reshape(1, -1), cell, frame["atype"], atomic=False, **inputs)
    return [np.asarray(values)[0] for values in results]


if __name__ == "__main__":
    model, given, out = sys.argv[1:]
    results = evaluate(model, dict(np.load(given)))
    np.savez(out, **{f"{index}": values for index, values in enumerate(results)})
