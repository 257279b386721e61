"""The figures of a report, as plotly draws them."""
