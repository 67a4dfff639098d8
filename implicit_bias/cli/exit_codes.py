"""What the commands' exit codes mean."""

#: Everything was done.
DONE = 0
#: A run, a cell or a figure failed; what was finished is kept.
FAILED = 1
#: The command line, a file or a setting is of no use; nothing was computed.
BAD_INPUT = 2
#: Ended by Ctrl-C; what was finished is kept.
INTERRUPTED = 130
#: Ended by SIGTERM; likewise.
TERMINATED = 143
