"""From the words on a command line to a checked configuration."""
