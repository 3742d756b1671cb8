"""Pictures of a Predator-Prey grid: text, images and a window."""

from __future__ import annotations

from typing import Any

import numpy as np

RENDER_MODES = ("ansi", "rgb_array", "human")


class Picture:
    """Draws grids ``[side, side]`` of 0 (empty), 1 (predator) and 2 (prey)."""

    def __init__(self) -> None:
        self._window: Any = None

    def draw(self, grid: np.ndarray, mode: str) -> str | np.ndarray | None:
        """``"ansi"``: a line a row with ``P``, ``q`` and ``.``; ``"rgb_array"``: an image, ``[24 side, 24 side, 3]``
        uint8; ``"human"``: None, after drawing in a pygame window."""
        if mode == "ansi":
            return "\n".join("".join(".Pq"[cell] for cell in row) for row in grid)
        image = _image(grid)
        if mode == "rgb_array":
            return image
        import pygame

        if self._window is None:
            pygame.display.init()
            pygame.display.set_caption("Predator-Prey")
            self._window = pygame.display.set_mode(image.shape[:2])
        self._window.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        return None

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = None


def _image(grid: np.ndarray, scale: int = 24) -> np.ndarray:
    """Predators blue, prey orange."""
    colours = np.array([[244, 241, 235], [38, 92, 153], [222, 120, 38]], np.uint8)
    image = colours[np.kron(grid, np.ones((scale, scale), np.uint8))]
    image[::scale] = image[:, ::scale] = 214
    return image
