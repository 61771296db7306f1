"""Downstream evaluation of exported models: lm-eval tasks, and programs in a sandbox.

Nothing here reaches a hub, and nothing that a model wrote is run outside the sandbox.
"""
