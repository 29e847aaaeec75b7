"""What `defar` can do: each function here is a subcommand, its docstring the help."""
