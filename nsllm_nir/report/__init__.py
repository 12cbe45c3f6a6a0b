"""What people look at: tables, plots, pages, progress in the terminal."""
