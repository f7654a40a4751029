"""Images as JPEG files, as archived segments have them."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from robolearn.core.errors import CorruptDataError

_CHANNELS = {1: "L", 3: "RGB"}
_LONGEST = 65_500  # side of an image that libjpeg takes [pixels]


def encodable(shape: tuple[int, ...]) -> bool:
    """Whether images (H, W, C) can be JPEG files."""
    return shape[-1] in _CHANNELS and max(shape[:2]) <= _LONGEST


def encoded(image: NDArray[np.uint8], quality: int) -> bytes:
    """(H, W, 1 or 3) as a JPEG file, with colours at full resolution (4:4:4)."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def decode(data: bytes, out: NDArray[np.uint8]) -> None:
    """Decode a JPEG file into ``out`` (H, W, 1 or 3).

    Raises:
        CorruptDataError: it is none, is cut short, or has another size or other channels.
    """
    from PIL import Image

    height, width, channels = out.shape
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if (image.size, image.mode) != ((width, height), _CHANNELS[channels]):
                raise CorruptDataError(
                    f"expected {_CHANNELS[channels]} {width}x{height}, got {image.mode} {image.size}"
                )
            out[...] = np.asarray(image).reshape(out.shape)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptDataError(f"not a readable JPEG file: {error}") from error
