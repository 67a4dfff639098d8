"""The report that a reader opens: what it says (content), and its two forms (REPORT.md, report.html)."""

from implicit_bias.report.page.kept_claims import merged, read_claims
from implicit_bias.report.page.write import write_report

__all__ = ["merged", "read_claims", "write_report"]
