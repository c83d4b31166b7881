"""What a GPU gives: its figures beside a CPU's, seconds and memory of a real size, and the peers' time for the same work."""
