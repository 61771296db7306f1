"""What `fit` and `allocate` are given, for their `--help`."""

TABLE = """\
columns of TABLE (in any order and case; counts may have thousands separators):
  source         what the run was annealed on; empty or `base`: the base as it is; `control`:
                 a run on the replay mixture alone
  tokens         tokens of the source trained, repeats included; 0 is the base as it is
  score          smaller is better and above 0: bits per byte, loss
 and where there are any:
  unique_tokens  different tokens the run could draw from; without it every token was new
  seed           a whole number; rows equal in all but it measure the noise
  flops, usd     what the run cost, acquisition and training
  target         the held-out set of the score: a run has one row a target, its score is their mean
  guard          yes or no: this target must not get worse, and is not in the mean
"""
COSTS = """\
FILE of costs (money is US dollars; `sources` and `budget` are needed):
  budget: {tokens: 4e9}             # source tokens; or usd, or flops, for everything
  parameters: 1.3e9                 # of the model; or flops_per_trained
  usd_per_hour: 2.5                 # of one device,
  flops_per_second: 4e14            # and what it does
  replay: 0.25                      # share of trained tokens, on top of the sources'
  sources:
    math:
      available: 1.2e9              # unique tokens that exist
      max_epochs: 8                 # 4 where nothing is said
      usd_fixed: 500
      usd_per_billion_tokens: 40    # or usd_per_token; flops_fixed, flops_per_token
      usd_tiers: [[1e8, 0], [1e9, 2e-7]]  # rising besides: tokens, USD for each; the last goes on
      licence: research             # a licence group
  exclude_licences: [research]      # buy nothing of these
  current: {math: 0.3, web: 0.7}    # today's mix, to compare with
  prior: {math: 0.3, web: 0.7}      # a mix to stay near, of every source that may be bought,
  prior_limit: 0.2                  # within so many nats of KL(shares || prior)
  least_tokens: 1e9                 # source tokens that must be bought at least
  guards: {prose: 0.02}             # how much worse than the base a guard may get
  confidence: 0.9                   # with which guards are kept
  noise: 0.004                      # SD of a score between seeds, if known from elsewhere
"""
