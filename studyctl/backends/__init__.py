"""Other packages that compress a variant in place of studyctl's own engine."""

OWN = "studyctl"
"""The backend that is studyctl itself."""
