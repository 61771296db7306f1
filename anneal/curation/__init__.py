"""Curation: documents in, documents out, and what that cost.

A source's documents are deduplicated, kept clear of the targets, scored by an annotator or
rewritten; each step is metered. `plan` lays the steps out without doing them, `worker` does one.
"""
