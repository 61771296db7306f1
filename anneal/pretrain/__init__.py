"""The second job: a decision in, the full run out, with measured beside predicted.

`supplies` prepares what phases want laid out otherwise, `size` tells the model's, `figures` prices
the phases and `show` prints them before anything is spent; `job` carries them out.
"""
