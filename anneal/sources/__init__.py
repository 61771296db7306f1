"""Sources: what data exists, and what it cost.

A `Source` names a supply of documents and how to read it; tokenising its curated documents gives a
`Manifest`: shards of token ids on disk with their content address, counts and measured cost.
"""
