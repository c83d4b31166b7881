"""The first record of an attempt: who runs what, where, with which versions."""

import os
import platform
import socket
from importlib.metadata import distributions, version

from studyctl.backends import OWN
from studyctl.backends.catalog import BACKENDS
from studyctl.run.protocol import Job
from studyctl.store.journal import SCHEMA

PACKAGES = ("studyctl", "torch", "transformers", "lm_eval", "datasets", "numpy")
"""Those that results can depend on."""
UNPACKERS = ("compressed-tensors", "gptqmodel", "optimum")
"""Those that a published checkpoint's weights can depend on; which of them are needed, and installed, differs."""


def describe_attempt(job: Job) -> dict[str, object]:
    """Return the fields of ``attempt_started``. Written by the worker, or by the runner when it died before it could."""
    taken = {
        "trial", "attempt", "device", "threads", "method", "variant", "backend", "seed",
        "settings", "calibration", "weights_key", "dtype", "model_key",
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "studyctl": version("studyctl"),
        "study": job.root.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES} | _unpackers(job),
        "model": job.model.id,
        "backend_version": version("studyctl") if job.backend == OWN else BACKENDS[job.backend].version,
        **job.model_dump(mode="json", include=taken),
    }


def _unpackers(job: Job) -> dict[str, str]:
    if not job.is_checkpoint:
        return {}
    installed = {found.name.lower() for found in distributions()}
    return {name: version(name) for name in UNPACKERS if name in installed}
