"""Whether minutes are to be spent on what is checked in part otherwise: more models, settings, packages and items."""

import os

THOROUGH = os.environ.get("STUDYCTL_REFERENCE") == "all"
