"""From NIR graphs of integers to programs."""
