"""The terminal app: watches studies, compares results, edits specs, runs SQL. Runs do not depend on it; it never imports torch."""
