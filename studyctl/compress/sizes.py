"""Sizes in which the walk works: its own, and what the plan foretells of its memory. Needs no torch."""

SAMPLE_TOKENS = 256
"""Tokens of a stage's input that are kept to measure output errors on: at least so many, if there are, and less than twice."""
HESSIAN_TILE = 192
"""A Hessian is symmetric: only what lies right of the beginning of such a strip of inputs is computed."""
KEPT_BYTES = 64 << 20
"""What is kept at most of the inputs of an MLP's last linear, so that the MLP need not run again for the next block's inputs. They
are 2.5 to 8 times as wide as a block's inputs: all of them would often be more than everything else together."""
