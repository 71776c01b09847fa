"""Runs passes, holds them to their contracts, and takes back what does not hold."""

from __future__ import annotations

from onnxslim_rx.manager.core import PassManager
from onnxslim_rx.manager.journal import JournalEntry, ManagerResult

__all__ = ["JournalEntry", "ManagerResult", "PassManager"]
