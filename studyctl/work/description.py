"""The first record of an attempt: who runs what, where, with which versions."""

import os
import platform
import socket
from importlib.metadata import distributions, version

from studyctl.backends import OWN
from studyctl.backends.catalog import BACKENDS
from studyctl.contract.job import Job
from studyctl.contract.limits import device_kind
from studyctl.contract.records import SCHEMA, AttemptStarted

PACKAGES = ("studyctl", "torch", "transformers", "lm_eval", "datasets", "numpy")
"""Those that results can depend on."""
UNPACKERS = ("compressed-tensors", "gptqmodel", "optimum")
"""Those that a checkpoint's weights can depend on, where they are installed."""


def describe_attempt(job: Job) -> AttemptStarted:
    """Return the first record of an attempt. Written by the worker, or by the runner when it died before it could."""
    versions = {name: version(name) for name in PACKAGES}
    if job.is_checkpoint:
        installed = {distribution.name.lower() for distribution in distributions()}
        versions |= {name: version(name) for name in UNPACKERS if name in installed}
    return AttemptStarted(
        trial=job.trial,
        attempt=job.attempt,
        schema=SCHEMA,
        studyctl=version("studyctl"),
        study=job.root.name,
        host=socket.gethostname(),
        pid=os.getpid(),
        python=platform.python_version(),
        versions=versions,
        model=job.model.id,
        model_key=job.model.key,
        method=job.method,
        variant=job.variant,
        backend=job.backend,
        backend_version=version("studyctl") if job.backend == OWN else BACKENDS[job.backend].version,
        settings=job.settings.model_dump(mode="json"),
        calibration=job.asked_calibration,
        seed=job.seed,
        weights_key=job.weights_key,
        device=job.device,
        device_kind=device_kind(job.device),
        dtype=job.dtype,
        threads=job.threads,
    )
