"""What everything stands on: errors, the registry of options, numbers with their scale, data, words of messages."""
