"""Hardware for a board from a program: image, simulation, synthesis, bitstream or vendor project, report."""
