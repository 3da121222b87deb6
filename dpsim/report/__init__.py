"""The report of a run: one HTML file that opens anywhere, and its key figures as JSON."""

from __future__ import annotations

from dpsim.report.build import Section, build_report

__all__ = ["Section", "build_report"]
