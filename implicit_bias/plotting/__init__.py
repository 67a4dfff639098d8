"""How things are drawn: style, bands, overlays, the explorer."""
