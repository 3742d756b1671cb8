"""An RLlib callback that holds the env runners of one node in the middle of an episode."""

import os
import time
from pathlib import Path

import ray
from ray.rllib.callbacks.callbacks import RLlibCallback


class Hold(RLlibCallback):
    """Once the file ``$HOLD`` names a node, its env runners stop where they are and leave a file each."""

    def on_episode_step(self, **kwargs):
        file = Path(os.environ["HOLD"])
        if file.exists() and file.read_text() == ray.get_runtime_context().get_node_id():
            (file.parent / f"held-{os.getpid()}").touch()
            time.sleep(600)
