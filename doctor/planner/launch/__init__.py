"""How the trainer is started."""
