"""Tests of doctor/index/."""
