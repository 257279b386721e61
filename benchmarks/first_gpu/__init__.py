"""Ten minutes on a rented GPU as one command: what works, what it costs, and where a round's time goes."""
