"""The report: what a person reads before signing off a data budget.

It takes a `Decision`, in which every number already stands, and renders it: one page that opens
offline, the same content as Markdown, the decision as JSON, and the figures as SVG. It computes no
new number. The libraries that draw are loaded when a report is written, not before.
"""

from anneal.report.page import write_report as write_report
