"""One file per command: parse the command line, build, run the engine, show the result."""
