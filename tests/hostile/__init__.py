"""Broken and hostile inputs of every kind that the package reads, made systematically and always the same."""
