"""Carries a plan out: installs what it says, keeps the way back, and goes on after a kill."""
