"""Named by the checkpoints of version 0.1, which end here when they are read."""

import rllib_ddn.ddn  # noqa: F401  (says so)
