"""Named by the checkpoints of version 0.1, which end here when they are read."""

raise ImportError(
    "this is of rllib-ddn 0.1 (a checkpoint, or an import of rllib_ddn.ddn or rllib_ddn.variants): modules and weights have "
    "other names since 0.2 (see CHANGELOG.md). Import from rllib_ddn itself; train anew, or use version 0.1 for its checkpoints."
)
