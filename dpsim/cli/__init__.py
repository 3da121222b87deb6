"""The command line: one short file for each command, imported only when it is called."""
