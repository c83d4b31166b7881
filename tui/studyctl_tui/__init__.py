"""The terminal app: watches studies, compares results, edits specs, asks SQL. It is not the run, and never imports torch."""
