"""One file per subcommand of `pare`; the function has the subcommand's name."""
