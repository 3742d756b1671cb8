"""A PettingZoo env that fails when it is told to."""

import time
from pathlib import Path

from examples.parallel_env import Meeting


class Faulty(Meeting):
    """Looks at each step into a folder for a file ``raise`` or ``hang``, takes it away, and does so; ``raise always``
    stays. While there is a file ``wait``, no env comes to be."""

    def __init__(self, folder):
        super().__init__(max_steps=4)
        self.folder = Path(folder)
        while (self.folder / "wait").exists():
            time.sleep(0.1)

    def step(self, actions):
        if self.told("raise") or (self.folder / "raise always").exists():
            raise ZeroDivisionError("no such\nplace")
        if self.told("hang"):
            time.sleep(3600)
        return super().step(actions)

    def told(self, what):
        try:
            (self.folder / what).unlink()  # by one env only
        except FileNotFoundError:
            return False
        return True
