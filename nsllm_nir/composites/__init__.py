"""Composites: subgraphs of standard NIR nodes with a name, and the fused operations that compute the same."""
