"""The types that rooms hand to each other. Needs no torch."""
