"""From float graphs to graphs of integers in Loihi's number formats, and what that changes."""
