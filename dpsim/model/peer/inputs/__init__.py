"""DeePMD-kit's ``input.json`` in the words of dpsim."""
