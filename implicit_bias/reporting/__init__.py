"""The report that a reader opens: what it says (content), and its two forms (REPORT.md, report.html)."""

from implicit_bias.reporting.ledger import merged, read_claims
from implicit_bias.reporting.write import write_report

__all__ = ["merged", "read_claims", "write_report"]
