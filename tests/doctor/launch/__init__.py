"""Tests of doctor/launch/."""
