"""Numbers of the semantics (``docs/semantics.md``) that all backends share; C++ and SystemVerilog get theirs here."""

CONSTANT_BITS = 32  # of a bias, step, decay or threshold, signed
MAX_WEIGHT_BITS = 8  # signed
MAX_LEVELS = 255  # of a Count
MAX_SHIFT = 31  # of a left shift, and fraction bits of an Integrate

DECAY_BITS = 8  # fraction of the decay of an Integrate
DECAY_ONE = 1 << DECAY_BITS  # a decay of this value would keep the whole state

# Loihi's LIF
LIF_STATE_BITS = 24  # of u and v, signed
LIF_LIMIT = (1 << (LIF_STATE_BITS - 1)) - 1  # where v saturates, both ways
LIF_FRACTION_BITS = 6  # its input and its threshold are shifted left by as much
LIF_UNIT = 1 << LIF_FRACTION_BITS  # 1 of the input, in units of u and v
LIF_DECAY_BITS = 12
LIF_DECAY_ONE = 1 << LIF_DECAY_BITS  # a decay of this value forgets the whole state
LIF_MAX_THRESHOLD = (1 << (LIF_STATE_BITS - 1 - LIF_FRACTION_BITS)) - 1
