"""A plain table of anyone's results: read, fitted, and turned into an allocation. No sweep needed.

rows = read(Path("runs.csv"))                           # strict; notes say what was decided
measured = measure(rows)                                # points, pools, ladder
law, judged = settle(measured.points, rng, forms=forms, draws=400, repeats=measured.repeats)
found = find(measured, law, judged, noise=noise, at=[4e9], rng=rng)

The verbs `fit` and `allocate` are `commands.fit_table` and `commands.allocate_table`.
"""
