"""Sizes in which the walk works: its own, and what the plan foretells of its memory. Needs no torch."""

SAMPLE_TOKENS = 256
"""Tokens of a stage's input that are kept for trials on them: at least so many, if there are, and less than twice."""
ERROR_PART = 16
"""Errors are told from the outputs for a 16th of the calibration tokens at most: where these are few, more would cost as much as a
good part of a pass."""
LEAST_ERROR_TOKENS = 64
HESSIAN_TILE = 192
"""A Hessian is symmetric: only what lies right of the beginning of such a strip of inputs is computed."""
KEPT_BYTES = 64 << 20
"""What is kept at most of the inputs of an MLP's last linear, so that the MLP need not run again for the next block's inputs. They
are 2.5 to 8 times as wide as a block's inputs: all of them would often be more than everything else together."""
