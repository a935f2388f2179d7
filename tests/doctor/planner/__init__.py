"""Tests of doctor.planner; a package, so that files here may bear the names of files elsewhere."""
