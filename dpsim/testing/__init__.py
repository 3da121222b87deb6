"""The contract of every model: checks that hold whatever its parameters are, installed for others to use.

`check_all` takes the settings of a model, gives it random parameters and verifies what physics and dpsim
promise: symmetries, sums over copies and images, derivatives, smoothness, degenerate structures, exclusions,
files. A check raises `ContractError` with what was compared, by how much it differs and what is allowed::

    from dpsim.testing import Subject, checks_for, tiny_models

    @pytest.mark.parametrize(("name", "check"), [(n, c) for n, m in tiny_models().items() for c in checks_for(m)])
    def test_contract(name, check):
        check(Subject.from_config(tiny_models()[name]))

A new descriptor or fitting is covered by being in its union. Use small settings (their ``tiny()``): the checks
evaluate some hundred structures.
"""

from dpsim.testing.battery import CHECKS, check_all, checks_for, tiny_models
from dpsim.testing.subject import ContractError, Subject, Tolerances

__all__ = ["CHECKS", "ContractError", "Subject", "Tolerances", "check_all", "checks_for", "tiny_models"]
