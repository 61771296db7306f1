"""The decision in a few lines, for the end of a terminal session."""

from __future__ import annotations

from anneal.plan.predictions import held_words
from anneal.report.decision import Decision
from anneal.report.next_sections import advice


def summary(decision: Decision) -> str:
    """Verdict, allocation with intervals, score against the base, and what is missing."""
    score, level = decision.score, f"{decision.score.level:.0%}"
    lines = [
        f"decision: {decision.verdict} - {decision.reason}",
        f"  {'source':<24}{'tokens':>12}{'share':>8}  {level:>4} of draws  epochs",
    ]
    for row in sorted(decision.allocation, key=lambda r: -r.tokens):
        if row.tokens or row.share_high > 0.005:
            lines.append(
                f"  {row.source:<24.24}{row.tokens:>12,}{row.share:>8.1%}  "
                f"{row.share_low:>4.0%} to {row.share_high:<5.0%} {row.epochs:>6.2f}"
            )
    lines.append(
        f"  score {score.value:.4f} [{score.low:.4f}, {score.high:.4f}] bits per byte; "
        f"base {decision.base_score:.4f}; expected regret {decision.expected_regret:.4f} "
        f"(95th percentile {decision.regret_95:.4f})"
    )
    for other in decision.beats:
        if not other.name.endswith(" alone"):
            tie = ", a tie" if other.tie else ""
            lines.append(
                f"  beats {other.name} with probability {other.probability:.0%} "
                f"(by {other.gain.value:.4f} [{other.gain.low:.4f}, {other.gain.high:.4f}]{tie})"
            )
    picks = {row.pick for row in decision.ranks}
    told = ", ".join(f"{row.budget:,}: {row.pick}" for row in decision.ranks)
    same = "the same" if picks == {decision.law_pick} else "otherwise"
    lines.append(f"  one source alone: {decision.law_pick}; single budgets say {same} ({told})")
    if decision.next_best is not None:
        lines.append(f"  next: {advice(decision.next_best)}; {decision.next_best.reason}")
    if decision.calibration is not None:
        lines.append(f"  {held_words(decision.calibration)}, by full runs measured afterwards")
    if decision.partial:
        lines.append(f"  PARTIAL: {len(decision.evidence.missing)} runs are missing:")
        lines += [f"    {line}" for line in decision.evidence.missing[:10]]
    return "\n".join(lines)
