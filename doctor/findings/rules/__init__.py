"""Facts in, findings out: rules by area, see `examine`."""
