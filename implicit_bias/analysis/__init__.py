"""Any run folders or weights in, tables out."""
