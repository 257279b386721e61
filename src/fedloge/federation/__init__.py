"""State of a federation, cohorts, receiving what clients send, aggregation, and progress of a run."""
