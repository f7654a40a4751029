"""Other projects' data formats, into and out of a buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robolearn.buffer.interchange.common import Summary
from robolearn.buffer.interchange.diffusion_policy import import_diffusion_policy
from robolearn.buffer.interchange.lerobot_export import export_lerobot
from robolearn.buffer.interchange.lerobot_import import import_lerobot
from robolearn.buffer.interchange.robomimic import import_robomimic

__all__ = [
    "FORMATS",
    "Format",
    "Summary",
    "export_lerobot",
    "import_diffusion_policy",
    "import_lerobot",
    "import_robomimic",
]


@dataclass(frozen=True)
class Format:
    """A data format.

    Attributes:
        about: one line for people.
        import_: ``(source, root, *, ...) -> Summary``.
        export: ``(root, out, *, select, fps, ...) -> Summary``; None where there is none.
    """

    about: str
    import_: Callable[..., Summary]
    export: Callable[..., Summary] | None = None


FORMATS: dict[str, Format] = {
    "lerobot": Format("LeRobotDataset v3.0 (directory)", import_lerobot, export_lerobot),
    "robomimic": Format("robomimic HDF5 (file)", import_robomimic),
    "diffusion_policy": Format("diffusion_policy replay buffer, zarr v2 (directory or .zip)", import_diffusion_policy),
}
"""Name -> format."""
