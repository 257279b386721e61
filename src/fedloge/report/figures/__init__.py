"""The figures of the page, as plotly's JSON."""
