"""The main job: a question in, a decision out.

`values` is the question, `job` answers it: `prepare` has sources turned into tokens, `base` and
`tasks` turn the plan into work for the launcher, `effects`, `curves` and `analyse` read the
results, `describe` and `statements` put them into the report's words, `show` prints plan and
status.
"""
