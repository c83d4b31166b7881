"""What the rooms hand to each other, as types. Needs no torch."""
