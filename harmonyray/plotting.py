"""What all pictures have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmonyray.files import whole_file


def save_figure(figure: Any, path: Path, dpi: int = 150) -> None:
    """Writes a matplotlib figure, whole or not at all, and closes it either way."""
    from matplotlib import pyplot

    try:
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=dpi)
    finally:
        pyplot.close(figure)
