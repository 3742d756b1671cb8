"""The tuned examples, which come with the package."""

from __future__ import annotations

from pathlib import Path

import rllib_ddn

FOLDER = Path(rllib_ddn.__file__).parent / "tuned_examples"
