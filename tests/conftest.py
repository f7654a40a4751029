"""Makes helpers in this directory importable from every test."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nets are tiny here: a second thread only costs the tests beside it

settings.register_profile("untimed", deadline=None)  # how long an example takes says more about the machine's load
settings.load_profile("untimed")
