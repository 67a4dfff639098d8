"""Figures on Rudin, Daubechies and Schapire, JMLR 5 (2004)."""
