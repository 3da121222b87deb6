"""Tables of a report about fine-tuning and heads."""

from __future__ import annotations

from dpsim.report.transfer import transfer_tables


def test_nothing_for_a_plain_training():
    assert transfer_tables({"step": 3, "frames": {"train": 4}}) == []


def test_bias_and_old_data():
    errors = {"rmse_energy": 0.0125, "rmse_energy_apart_from_elements": 0.002, "rmse_dos": 3.0}
    tuned = {
        "bias": {"O": {"before": -1.0, "after": -2.5}, "Li": {"before": None, "after": 0.25}},
        "old_data": {"before": errors, "after": {**errors, "rmse_energy": 0.15}},
    }
    bias, old = transfer_tables({"finetune": tuned})
    assert bias.rows == [("O", "-1.0000", "-2.5000", "-1.5000"), ("Li", "new", "0.2500", "–")]
    assert old.rows[0] == ("energy RMSE", "12.5", "150", "meV/atom")
    assert old.rows[1][0] == "energy RMSE, apart from a constant for each element"
    assert old.rows[2] == ("dos RMSE", "3", "3", "as labelled")


def test_thin_matrices():
    lora = {"rank": 4, "alpha": 8.0, "trained": 6528, "parameters": 33777}
    (table,) = transfer_tables({"finetune": {"bias": {}, "lora": lora}})
    assert table.header == ("rank", "alpha", "trained", "of")
    assert table.rows == [("4", "8", "6528", "33777")]


def test_grids_have_no_row():
    assert transfer_tables({"finetune": {"bias": {"O": {"before": [1.0], "after": [2.0]}}}}) == []


def test_bias_after_training():
    change = {"elements": {"O": {"atoms": 3, "before": 1.0, "after": 1.5}}}
    (single,) = transfer_tables({"bias_after_training": {"best": change, "last": change}})
    assert single.rows == [("O", "1.0000", "1.5000", "+0.5000")]
    tables = transfer_tables({"bias_after_training": {"best": {"a": change, "b": change}}})
    assert [table.caption.partition(" of head ")[2][:1] for table in tables] == ["a", "b"]


def test_heads():
    heads = {"a": {"probability": 0.25, "frames": {"train": 12, "valid": 0}}, "b": {"probability": 0.75}}
    (table,) = transfer_tables({"heads": heads})
    assert table.rows == [("a", "12", "0", "25 %"), ("b", "–", "–", "75 %")]
