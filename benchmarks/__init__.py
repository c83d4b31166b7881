"""What studyctl costs, as ratios against a peer in the same run. ``python -m benchmarks [NAME ...]``.

A benchmark reports and never asserts: machines differ, and a shared one differs from itself.
"""
