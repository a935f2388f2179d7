"""The stages of training, each run as `python -m scripts.NAME`."""
