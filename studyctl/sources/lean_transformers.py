"""Importing transformers for language models only.

Its models import the losses of all kinds of models, and those of object detectors import scipy where it is installed, as it is
beside lm-eval: 35 MiB of every worker, and a tenth of the time until it can load a model.
"""

import importlib

from transformers import utils


def import_models() -> None:
    """Import what all models of transformers need, without scipy; nothing happens if that was imported before."""
    own = utils.is_scipy_available
    utils.is_scipy_available = lambda: False
    try:
        importlib.import_module("transformers.modeling_utils")
    finally:
        utils.is_scipy_available = own
