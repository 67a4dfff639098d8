"""From any runs to tables: comparison, curves over seeds."""
