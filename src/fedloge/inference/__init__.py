"""Using the models of a finished run: predict, export, and a personal model for a client that never took part."""
