"""Frames on disk as numpy arrays: data sets in folders, HDF5 and LMDB, writing, splits and summaries; no torch."""

from __future__ import annotations

from dpsim.data.dataset import Dataset, System, open_dataset
from dpsim.data.frame import Frame
from dpsim.data.write import write_mixed, write_npy

__all__ = ["Dataset", "Frame", "System", "open_dataset", "write_mixed", "write_npy"]
