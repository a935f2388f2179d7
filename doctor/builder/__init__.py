"""Carries a plan out: what installs and builds, beside `probe` the only layer that touches the machine."""
