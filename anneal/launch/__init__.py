"""Launching: tasks go to worker processes, outcomes come back.

`values` has the words, `board` decides what comes next, `local` runs it on this machine with
`pool`, `process` and `slots` below it, and `live` shows it. Nothing here imports what the workers
do: tasks are spec files, and workers speak `anneal.plan.protocol`.
"""
