"""The second job: a decision in, the full run out, with measured beside predicted.

`supplies` prepares what phases want laid out otherwise, `size` tells the model's, `figures` prices
the phases and `show` prints them before anything is spent; `predict` says what the law expects of
every phase end, `job` carries the run out, `settle` and `outcome` set measured beside it.
"""
