"""Fine-tune the model of 02 on a few frames of another reference, then train one model with a head for each.

The other reference is effective-medium theory. Run 01_label_and_convert.py and 02_train.py first.
"""

from pathlib import Path

from ase.build import bulk

from data_tools.calculators import EMTConfig
from data_tools.convert import convert
from data_tools.label import label
from data_tools.structures import PrototypeConfig, build_structures
from dpsim import DPCalculator
from dpsim.calculators.errors_on_data import evaluate_dataset
from dpsim.train.config import TrainConfig
from dpsim.train.trainer import train

OUTPUT = Path(__file__).parent / "output"
PRETRAINED = OUTPUT / "train/best.safetensors"
SETTINGS = {
    "loss": {"energy": [0.02, 1], "forces": [1000, 1], "virial": [0.02, 1]},
    "batch_size": "auto:32",
    "validate_every": 50,
}


def main() -> None:
    if not PRETRAINED.is_file():
        raise SystemExit(f"{PRETRAINED} is not there yet: run 02_train.py first")

    # 1. A few frames of the reference that is wanted.
    declared = PrototypeConfig(prototype="fcc", element="Cu", supercell=(2, 2, 2), rattle=0.06, strain=0.03, count=20)
    labelled = label(build_structures([declared], seed=3), EMTConfig(), OUTPUT / "label-emt")
    split = {"train": 0.6, "valid": 0.4}
    convert([labelled.frames], OUTPUT / "data-emt", type_map=["Cu"], split=split, seed=1, overwrite=True)
    new, old = OUTPUT / "data-emt", OUTPUT / "data"

    # 2. Fine-tuning. Settings are those of the pretrained model; before the first step its energy of each element is
    #    moved to the new reference. Parts can be kept as they are, here the vectors of the elements.
    rate = {"type": "cosine", "start": 2e-3, "stop": 1e-5}
    frozen = ["descriptor.type_embedding"]
    config = TrainConfig(recipe="finetune", frozen=frozen, steps=150, learning_rate=rate, **SETTINGS)
    tuned = train(
        config,
        OUTPUT / "finetune",
        train_data=new / "train",
        valid_data=new / "valid",
        init_model=PRETRAINED,
        old_data=old / "valid",
    )
    report = tuned.metrics["finetune"]
    for element, energy in report["bias"].items():
        print(f"energy of {element}: {energy['before']:.3f} -> {energy['after']:.3f} eV")
    before = evaluate_dataset(PRETRAINED, [new / "valid"])["overall"]["forces_rmse"]
    after = evaluate_dataset(tuned.best, [new / "valid"])["overall"]["forces_rmse"]
    print(f"forces of the new reference: {1000 * before:.0f} -> {1000 * after:.0f} meV/Å")
    errors = [report["old_data"][when]["rmse_forces"] for when in ("before", "after")]
    print(f"forces of the old reference: {1000 * errors[0]:.0f} -> {1000 * errors[1]:.0f} meV/Å")

    # 3. Both references in one model: the descriptor is shared, each has a fitting net of its own. Each step is for
    #    one head, here for EMT in one of three.
    heads = {"eam": {"probability": 2}, "emt": {"probability": 1, "fitting": {"neuron": [24, 24]}}}
    model = {"preset": "dpa3-tiny", "descriptor": {"repflow": {"nlayers": 1}}}
    rate = {"type": "cosine", "start": 0.01, "stop": 1e-4, "warmup_steps": 20}
    both = train(
        TrainConfig(model=model, heads=heads, steps=400, learning_rate=rate, **SETTINGS),
        OUTPUT / "heads",
        train_data={"eam": old / "train", "emt": new / "train"},
        valid_data={"eam": old / "valid", "emt": new / "valid"},
        type_map=["Cu"],
    )
    for head in heads:
        atoms = bulk("Cu", cubic=True)
        atoms.calc = DPCalculator(both.best, head=head)
        print(f"head {head}: {atoms.get_potential_energy() / len(atoms):.3f} eV/atom at a = 3.61 Å")


if __name__ == "__main__":  # labelling may start more processes, which import this file
    main()
