"""Checkpoints on disk: a whole one replaces the one before it, and the best evaluation's is its folder ``best``."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID

from rllib_ddn.rllib.score import BEST

UNFINISHED = ".unfinished-"  # the prefix of a folder in which a checkpoint is being written


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[Path]:
    """Yields an empty folder for a checkpoint's files, and moves them into their places when all are written.

    An interrupted save leaves the checkpoint that was there before, or the new one, and no mixture:
    ``algorithm_state.pkl`` is moved first, in one step, and holds all that is restored. The folder ``best`` is moved as
    a whole; ``policies/`` is for ``Policy.from_checkpoint()`` alone; ``rllib_checkpoint.json``, which marks a
    checkpoint, comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as name:
        written = Path(name)
        yield written
        best, replaced = written / BEST, written / "replaced"  # which is removed with the rest
        if not best.exists() and (folder / BEST).exists():  # of another run
            (folder / BEST).rename(replaced)
        for path in sorted(path for path in written.rglob("*") if path == best or path.is_file()):
            if best in path.parents or replaced in path.parents:
                continue
            target = folder / path.relative_to(written)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path == best and target.exists():  # the whole folder, so that score.json is of the state beside it
                target.rename(replaced)
            path.replace(target)


def write_best(checkpoint: Path, state: bytes, figures: Mapping[str, Any], policy: Policy) -> None:
    """Writes the folder ``best`` of a checkpoint, itself a checkpoint without the replay.

    Args:
        checkpoint: the checkpoint's folder, which is written already.
        state: the pickled state of the algorithm at its best evaluation.
        figures: of the best evaluation, for ``score.json``.
        policy: a policy of the kind that the state holds.
    """
    folder = checkpoint / BEST
    (folder / "policies").mkdir(parents=True)
    (folder / "algorithm_state.pkl").write_bytes(state)
    (folder / "score.json").write_text(json.dumps(figures) + "\n")
    shutil.copy(checkpoint / "rllib_checkpoint.json", folder)
    policy_state = pickle.loads(state)["policies"][DEFAULT_POLICY_ID]
    policy.export_checkpoint(str(folder / "policies" / DEFAULT_POLICY_ID), policy_state=policy_state)
