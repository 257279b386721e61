"""The state of a federation, who takes part in a round, and how updates become the next state."""
