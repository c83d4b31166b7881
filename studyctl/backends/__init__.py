"""Other packages that compress a variant instead of studyctl's own engine."""

OWN = "studyctl"
"""The backend that is no other package."""
