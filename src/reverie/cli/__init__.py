"""The command line: argument parsing, progress, exit codes. Everything else is a function of the library."""
