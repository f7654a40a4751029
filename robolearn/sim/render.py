"""Offscreen rendering, the only place that touches OpenGL."""

from __future__ import annotations

import atexit
import importlib
import os
from typing import Any

import mujoco
import numpy as np

from robolearn.core.errors import ConfigError, MissingDependencyError, suggest
from robolearn.core.spec import Array

BACKENDS = ("egl", "osmesa")


class Renderer:
    """Images of one world at one size, from its named cameras.

    Each renderer has its own OpenGL context and makes it current before every use, so that several worlds in one
    process do not draw into each other's. ``MUJOCO_GL`` chooses the library: ``egl`` (default) or ``osmesa``. Images
    have no shadows (they cost 75 times the rest in software) and, unless ``fine``, coarse round shapes
    and jagged edges.

    Raises:
        MissingDependencyError: the OpenGL library is absent or finds no display device.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, *, fine: bool = False) -> None:
        self._gl = _context(width, height)
        self._gl.make_current()
        quality = model.vis.quality
        quality.offsamples = 4 if fine else 0
        quality.numslices, quality.numstacks, quality.numquads = (28, 16, 4) if fine else (12, 6, 2)
        self._model = model
        self._drawer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._drawer.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        mujoco.mjr_resizeOffscreen(width, height, self._drawer)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawer)
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._flipped = np.empty((height, width, 3), dtype=np.uint8)
        self._closed = False
        atexit.register(self.close)  # before MuJoCo's own exit hook takes the display away
        self.size = (width, height)

    def render(self, data: mujoco.MjData, camera: str) -> Array:
        """(height, width, 3) uint8 RGB image of ``camera``."""
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = camera_id(self._model, camera)
        self._gl.make_current()
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, view, every, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._drawer)
        mujoco.mjr_readPixels(self._flipped, None, self._rect, self._drawer)
        return np.ascontiguousarray(self._flipped[::-1])

    def close(self) -> None:
        """Free the context; idempotent."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._gl.make_current()
            self._drawer.free()
            self._gl.free()


def camera_id(model: mujoco.MjModel, name: str) -> int:
    """Id of a named camera.

    Raises:
        ConfigError: there is none of that name.
    """
    found = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name))
    if found < 0:
        raise ConfigError(f"unknown camera '{name}'{suggest(name, [model.camera(i).name for i in range(model.ncam)])}")
    return found


def _context(width: int, height: int) -> Any:
    backend = os.environ.get("MUJOCO_GL", "egl").lower() or BACKENDS[0]
    if backend not in BACKENDS:
        raise ConfigError(f"MUJOCO_GL is '{backend}', which cannot draw offscreen{suggest(backend, BACKENDS)}")
    package = {"egl": "libegl1", "osmesa": "libosmesa6"}[backend]
    try:
        context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"cannot open an OpenGL context with MUJOCO_GL={backend}: {error}. On Debian install {package} "
            "(apt-get install libegl1, or libosmesa6 with MUJOCO_GL=osmesa); observations without images need neither"
        ) from error
    return context
