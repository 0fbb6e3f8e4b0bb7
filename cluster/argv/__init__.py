"""Command lines as tuples of words: built here, run elsewhere."""
