"""Carries a plan out: installs what it says, keeps the way back, and goes on after a kill.

It works on this machine only, never below `--root`. What it knows of an environment it reads from
files, as the probes do; what it changes, it changes through uv or pip.
"""
