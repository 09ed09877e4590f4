//! HIT PATH: (being built)
