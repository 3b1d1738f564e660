"""The command line: one file per subcommand, which only parses arguments and prints results."""
