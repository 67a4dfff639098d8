"""Tsilivis, Frank, Srebro and Kempe: the price of implicit bias in adversarially robust generalization."""
