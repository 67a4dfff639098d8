"""The process that the work runs in: processors, signals, memory."""
