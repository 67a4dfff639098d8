"""What is measured along a trajectory: margins, certificates, KKT ratios."""
