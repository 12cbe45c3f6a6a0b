"""NIR graphs of networks that are built from snnTorch neurons."""
