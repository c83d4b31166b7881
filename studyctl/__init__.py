"""studyctl: measure what pruning and quantizing small language models costs.

A study spec is data; ``studyctl run`` brings the stored results up to date with it.
"""

__version__ = "0.2.0"
