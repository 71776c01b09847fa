"""The command line, `onnxslim-rx`: parse, call one function a verb, map errors to exit codes."""

from __future__ import annotations

from onnxslim_rx.cli.app import main

__all__ = ["main"]
