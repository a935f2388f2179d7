"""Text: what others wrote is read with bounds, what we write is made fit to be seen. Below all other rooms."""
