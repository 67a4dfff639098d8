"""Figures of Kim, Song and Yun, "From Geometry to Generalization: Why Row Normalization Can Beat Adam and Muon"."""
