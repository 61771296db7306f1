"""Plan: which runs answer the question, and what each will cost. Pure arithmetic.

`Design` -> `plan_runs` -> `PlannedRun`s, each a `RunSpec` (what; its hash is its identity) with
what it is for. `Means` says how runs are carried out, `Result` what they measured.
"""
