"""`python -m onnxslim_rx` is the command line."""

from __future__ import annotations

import sys

from onnxslim_rx.cli import main

sys.exit(main())
