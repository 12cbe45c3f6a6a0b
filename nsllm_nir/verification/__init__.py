"""Running programs on backends and comparing every cell with the reference."""
